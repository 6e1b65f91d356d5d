"""Removes a machine, with the folder of its bundle."""

from __future__ import annotations

import os
import sys

from pyvmm_kata.bundle import images
from pyvmm_kata.errors import VmmError
from pyvmm_kata.oci.delete import delete


def remove(folder: str, bundle: str, *, force: bool) -> None:
    """
    :param folder: of its state
    :param bundle: see :attr:`pyvmm_kata.machines.records.Machine.bundle`
    :param force: in whatever state it is
    :raises VmmError: it runs, or cannot be removed
    """
    delete(folder, force=force)
    if bundle:
        images.remove(bundle)


def main() -> None:
    """Of the process that has kept the log of a container of ``pyvmm run -d --rm``: folder, bundle."""
    folder, bundle = sys.argv[-2:]
    try:
        if os.path.isdir(folder):
            delete(folder, force=True)
    except VmmError:
        pass  # another process removes it at the same time
    images.remove(bundle)
