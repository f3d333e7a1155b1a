"""`edgephi adapter build`: adapters that a device switches on, for a bundle that is there already."""
