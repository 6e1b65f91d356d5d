"""Writes an initramfs: a cpio archive in "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst)."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def _pad(size: int) -> bytes:
    return b"\0" * (-size % 4)


def _member(out: BinaryIO, number: int, name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
    path = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device of the file (2), device it names (2), length of name, checksum
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    out.write(header + path + _pad(len(header) + len(path)) + data + _pad(len(data)))


def write_cpio(tree: Path, out: BinaryIO) -> None:
    """Write everything in the directory `tree`, owned by root, in a fixed order and without times.

    Regular files, directories and symbolic links only, plus /dev/console, which a tree made without root cannot hold
    and which the kernel opens before it starts init. Raises ValueError for any other kind of file.
    """
    number = 0
    for folder, subfolders, files in os.walk(tree):
        subfolders.sort()
        entries = [folder] if folder != str(tree) else []
        entries += sorted(os.path.join(folder, name) for name in files)
        # os.walk lists a link to a directory among the directories but does not enter it.
        entries += [path for name in subfolders if os.path.islink(path := os.path.join(folder, name))]
        for path in entries:
            number += 1
            mode = os.lstat(path).st_mode
            name = os.path.relpath(path, tree)
            if stat.S_ISLNK(mode):
                data = os.readlink(path).encode()
            elif stat.S_ISREG(mode):
                data = Path(path).read_bytes()
            elif stat.S_ISDIR(mode):
                data = b""
            else:
                raise ValueError(f"{path}: neither file, directory nor symbolic link")
            _member(out, number, name, mode, data)
            if name == "dev":
                number += 1
                _member(out, number, "dev/console", stat.S_IFCHR | 0o600, b"", (5, 1))
    _member(out, 0, "TRAILER!!!", 0, b"")
