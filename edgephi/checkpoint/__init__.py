"""The checkpoint: where it comes from, what it claims, and its weights, a few rows at a time."""
