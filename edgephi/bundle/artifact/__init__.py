"""What lies in a bundle's `model/` folder, read as far as a device must before an engine opens it."""
