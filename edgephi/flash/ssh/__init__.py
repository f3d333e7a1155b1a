"""To boxes over ssh."""
