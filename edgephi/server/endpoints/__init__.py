"""The endpoints, a file each, and what they work with."""
