"""What edgephi promises, as tests, which lie as the code lies: a folder for each of its rooms."""
