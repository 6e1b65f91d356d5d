"""The program ``pyvmm-oci``: its commands, and what they share."""
