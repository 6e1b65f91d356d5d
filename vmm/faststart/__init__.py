"""What makes a start fast; the only place that names private parts of CPython."""
