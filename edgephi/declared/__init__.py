"""What people write: recipes, targets and chips, one TOML file each."""
