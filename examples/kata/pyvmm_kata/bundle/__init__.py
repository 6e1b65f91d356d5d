"""What users write, and what follows from it: kata.toml, config.json, images, the plan of mounts and devices."""
