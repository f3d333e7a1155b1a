"""How texts are laid out in the lines of a terminal."""
