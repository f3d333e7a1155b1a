"""Images on the device: from a file to the tokens that a model reads."""
