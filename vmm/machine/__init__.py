"""One machine: what it is put together from, its life, its statistics."""
