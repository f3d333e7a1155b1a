"""The steps from a checkpoint to a bundle, each a function of the value before it."""
