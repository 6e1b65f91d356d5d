"""The control socket of a machine: a request a line, in JSON, and its answers.  See docs/control.md."""
