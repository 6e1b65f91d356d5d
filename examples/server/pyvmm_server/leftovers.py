"""What servers that were killed have left: sandboxes in any state, and half-made ones."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.bundle import images
from pyvmm_kata.oci.context import default_root
from pyvmm_kata.oci.delete import delete
from pyvmm_sandbox import connecting
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
        bundle, gateway = _bundle(folder), connecting.gateway_of(folder)
        delete(folder, force=True)
        if bundle:
            images.remove(bundle)
        if gateway:
            connecting.remove_gateway(gateway)


def bundles(root: str, folder: str, names: Iterable[str]) -> list[str]:
    """What *folder* has that belongs to none of the named sandboxes: their bundles, and the folders of gateways."""
    states = [os.path.join(root or default_root(), name) for name in names]
    used = {*map(_bundle, states), *map(connecting.gateway_of, states)}
    return [path for path in others(folder, set()) if path not in used]


def others(folder: str, names: set[str]) -> list[str]:
    """What *folder* has under other names."""
    try:
        return [os.path.join(folder, each) for each in sorted(set(os.listdir(folder)) - names)]
    except FileNotFoundError:
        return []


def remove_paths(paths: Iterable[str]) -> None:
    """Remove files and folders, with whatever containers have made in them."""
    for path in paths:
        images.remove(path)


def _bundle(folder: str) -> str:
    try:
        return str(state.read(folder)["bundle"])
    except (VmmError, OSError, KeyError):
        return ""
