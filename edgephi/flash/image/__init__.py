"""Into an image of a partition."""
