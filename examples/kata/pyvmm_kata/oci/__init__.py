"""The program ``pyvmm-oci``: its commands, and their common parts."""
