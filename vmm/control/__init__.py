"""The control socket of a machine: each request and each answer is one line of JSON.  See docs/reference/control.md."""
