"""Floor 1, what people write: recipes, targets and chips, one TOML file each."""
