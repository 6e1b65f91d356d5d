"""What servers that were killed have left: sandboxes in any state, and half-made ones."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.bundle import images
from pyvmm_kata.oci.context import default_root
from pyvmm_kata.oci.delete import delete
from vmm import VmmError

if TYPE_CHECKING:
    from collections.abc import Iterable


def remove(root: str, name: str) -> None:
    """End a sandbox in any state, also a half-made one, and remove all that belongs to it.

    :param root: where states are; empty: the default
    :raises VmmError: something cannot be removed
    """
    folder = os.path.join(root or default_root(), name)
    if os.path.isdir(folder):
        bundle = _bundle(folder)
        delete(folder, force=True)
        if bundle:
            images.remove(bundle)


def remove_bundles(root: str, folder: str, names: Iterable[str]) -> None:
    """Remove the bundles in *folder* that belong to none of the named sandboxes."""
    used = {_bundle(os.path.join(root or default_root(), name)) for name in names}
    with contextlib.suppress(FileNotFoundError):
        for each in os.listdir(folder):
            path = os.path.join(folder, each)
            if path not in used:
                images.remove(path) if os.path.isdir(path) else os.unlink(path)


def remove_others(folder: str, names: set[str]) -> None:
    """Remove the folders in *folder* that have other names."""
    with contextlib.suppress(FileNotFoundError):
        for each in set(os.listdir(folder)) - names:
            shutil.rmtree(os.path.join(folder, each), ignore_errors=True)


def _bundle(folder: str) -> str:
    try:
        return str(state.read(folder)["bundle"])
    except (VmmError, OSError, KeyError):
        return ""
