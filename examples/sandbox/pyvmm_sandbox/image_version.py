"""Which image a name leads to at the moment: templates and pools are made again when that changes."""

from __future__ import annotations

import os

from pyvmm_kata.errors import VmmError
from pyvmm_kata.image_store.store import ImageStore

_REGISTRY = "docker://"


def version_of(image: str) -> str:
    """A text that changes when the name leads to another image; empty: unknown.

    Programs change a folder while they run in it, so that only another folder in its place is a change.
    """
    path = image if os.path.exists(image) else image.partition(":")[0]
    try:
        if os.path.exists(path):
            index = os.path.join(path, "index.json")
            status = os.stat(index if os.path.exists(index) else path)
            whole = (
                "" if os.path.isdir(path) and not os.path.exists(index) else f"-{status.st_size}-{status.st_mtime_ns}"
            )
            return f"file:{status.st_dev}-{status.st_ino}{whole}"
        found = ImageStore().find(image.removeprefix(_REGISTRY))
    except (OSError, VmmError):
        return ""
    return found.id if found is not None else ""
