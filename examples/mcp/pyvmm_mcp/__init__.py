"""Sandboxes as tools of the Model Context Protocol; see :mod:`pyvmm_mcp.command` for the program."""
