"""The root file system of a container, by any name for its image."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from pyvmm_kata.bundle import images
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.image_store.store import ImageStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm_kata.state import Json

PULL = ("missing", "always", "never")
_REGISTRY = "docker://"


@contextlib.contextmanager
def open_root(name: str, folder: str, *, pull: str = "missing", store: str = "") -> Iterator[tuple[str, Json]]:
    """The root file system of the image *name*, and the ``process`` of its configuration.

    What is on this host is opened or unpacked as :func:`~pyvmm_kata.bundle.images.open_image` does. Any other name is
    that of an image of the store, and its root is the store's file, which cannot be removed meanwhile.

    :param folder: an empty directory for what is unpacked
    :param pull: when to copy the image of a registry into the store: ``missing``, ``always`` or ``never``
    :param store: the directory of the store; empty: the default
    :raises ConfigError: there is no such image, or it is damaged
    :raises HostError: the registry cannot be reached or refuses, or there is no room
    """
    if _is_local(name):
        yield images.open_image(name, folder)
        return
    images_here = ImageStore(store)
    name = name.removeprefix(_REGISTRY)
    found = None if pull == "always" else images_here.find(name)
    if found is None and pull == "never":
        raise ConfigError(
            f"no image {name!r:.200} in {images_here.root}", code="image-none", hint=f"pyvmm image pull {name}"
        )
    with images_here.in_use(found or images_here.pull(name, show=_is_watched())) as image:
        yield image.path, image.process


def _is_watched() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _is_local(name: str) -> bool:
    if name.startswith(images.SCHEMES):
        return not name.startswith(_REGISTRY)
    return name.startswith((".", "/")) or os.path.exists(name) or os.path.exists(name.partition(":")[0])
