"""One machine: its construction, its life, its statistics."""
