"""Files with holes, as disk images are."""

from __future__ import annotations

import os
from pathlib import Path


def sparse_copy(source: Path, target: Path) -> Path:
    """Copy a file and leave its holes holes. Returns `target`."""
    with open(source, "rb") as old, open(target, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                break
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(old.fileno(), min(end - at, 1 << 20), at)
                if not data:
                    break
                if data.count(0) != len(data):  # some file systems do not know holes
                    os.pwrite(new.fileno(), data, at)
                at += len(data)
    return target
