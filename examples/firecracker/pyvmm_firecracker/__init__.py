"""Firecracker's API on a unix socket, and its command line, in front of pyvmm's machines.

The interface is that of Firecracker 1.17 (``src/firecracker/swagger/firecracker.yaml``).  What differs is a table in
``docs/guide/firecracker.md``.
"""

from __future__ import annotations

VERSION = "1.17.0"
"""The version of the interface, which clients compare; the program itself has that of pyvmm."""
