"""The command ``pyvmm-oci``: a module a command, and what they share."""
