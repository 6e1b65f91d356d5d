"""Optimizations of the start; the only place that names private parts of CPython."""
