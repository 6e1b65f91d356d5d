"""The command ``pyvmm-oci``: its commands, and what they share."""
