"""What brings a bundle to a device: over ssh, through a registry, or as an image of a partition."""
