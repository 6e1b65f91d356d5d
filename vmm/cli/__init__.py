"""The command ``pyvmm``: one module per command, thin over :mod:`vmm`."""
