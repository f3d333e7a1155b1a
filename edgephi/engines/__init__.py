"""What both sides of the wall know of an engine. Standard library only."""
