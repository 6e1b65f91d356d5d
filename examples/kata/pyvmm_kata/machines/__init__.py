"""The commands of ``pyvmm`` for machines in the background: those of ``pyvmm run -d``, and detached sandboxes."""
