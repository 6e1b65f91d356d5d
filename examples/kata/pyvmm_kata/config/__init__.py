"""What users write: config.json of a bundle, and kata.toml."""
