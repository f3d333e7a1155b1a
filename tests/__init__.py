"""What edgephi promises, as tests. One folder for each floor of the package."""
