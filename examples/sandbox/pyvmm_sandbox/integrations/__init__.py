"""Sandboxes for frameworks that run what models write. Each module needs its framework, and imports it."""
