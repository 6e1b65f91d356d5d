"""Waiting for what makes the image of the next start of ``pyvmm``, in the background."""

from __future__ import annotations

import fcntl
from pathlib import Path


def wait_for_image(cache: Path) -> None:
    """Until nothing makes an image in the folder *cache* any more.

    Whoever makes one holds its lock from before the start that takes the last one goes on.
    """
    for lock in cache.glob("warm-*.lock"):
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
