"""The files that a checkpoint's weights lie in, and where in them each tensor is."""
