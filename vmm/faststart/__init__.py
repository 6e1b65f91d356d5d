"""What makes a start fast; the only place that depends on how CPython imports and keeps code."""
