"""Packs a directory of the host for the core, which unpacks it as its root."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TRAILER = "TRAILER!!!"


def _entry(out: BinaryIO, name: str, status: os.stat_result | None, size: int) -> None:
    """Write the header of a member in the newc format."""
    fields = [0] * 13
    if status:
        device = status.st_rdev
        fields[1:6] = [status.st_mode, status.st_uid, status.st_gid, 1, max(0, int(status.st_mtime))]
        fields[6], fields[9:11] = size, [os.major(device), os.minor(device)]
    raw = os.fsencode(name) + b"\0"
    fields[11] = len(raw)
    header = b"070701" + b"".join(b"%08X" % (field & 0xFFFFFFFF) for field in fields)
    out.write(header + raw + bytes(-(len(header) + len(raw)) % 4))


def _members(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All files of a directory on its file system, parents first."""
    device = root.stat().st_dev
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in [*folders, *sorted(files)]:
            path = Path(folder, name)
            status = path.lstat()
            yield path, status
            if stat.S_ISDIR(status.st_mode) and status.st_dev != device:
                folders.remove(name)


def pack(root: Path, out: BinaryIO) -> None:
    """Write the archive of a directory; files that cannot be read are left out."""
    for path, status in _members(root):
        data = b""
        try:
            if stat.S_ISREG(status.st_mode):
                data = path.read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                data = os.fsencode(os.readlink(path))
        except OSError:
            continue
        _entry(out, str(path.relative_to(root)), status, len(data))
        out.write(data + bytes(-len(data) % 4))
    _entry(out, TRAILER, None, 0)
