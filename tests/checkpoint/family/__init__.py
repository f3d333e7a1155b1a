"""Floor 2: where a checkpoint comes from, what it claims, and its weights."""
