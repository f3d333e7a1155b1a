"""The reference: what a checkpoint says, with no engine in between, and how far off others are."""
