"""A limit for what a container writes to its root, which becomes the lower layer of an overlay: the upper one has that
size.

The upper layer of a folder is an ext4 file system of its own on the host, in a file without a name: its room is free
again with the container's mount namespace. That of a read-only disk is a tmpfs of the guest (see
:func:`~pyvmm_kata.bundle.root_disks.root_storages`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyvmm_kata.errors import ConfigError, HostError

if TYPE_CHECKING:
    from collections.abc import Mapping

DISK = "io.pyvmm.disk"
"""The annotation with the size, in bytes."""
PLACE = "/var/tmp"
"""Where the file has its room; states are usually on a tmpfs."""
SMALLEST, LARGEST = 8 << 20, 1 << 44
"""An ext4 file system has tables."""


def size_of(annotations: Mapping[str, str]) -> int:
    """Bytes; 0: there is no limit.

    :raises ConfigError: it is no size
    """
    text = annotations.get(DISK) or "0"
    size = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    if size and not SMALLEST <= size <= LARGEST:
        raise ConfigError(
            f"annotation {DISK}: {text!r:.40} is not {SMALLEST} to {LARGEST} bytes",
            code="oci-annotation",
            hint="8M is the smallest layer for what a container writes",
        )
    return size


def make(root: str, size: int, folder: str) -> str:
    """Mount the layers in this mount namespace; returns the path of the new root.

    :param folder: an existing one, for the mount points
    :raises HostError: a program is missing, or the host has no room or refuses
    """
    import tempfile

    place = os.path.join(folder, "layer")
    os.mkdir(place, 0o700)
    with tempfile.NamedTemporaryFile(dir=PLACE, prefix="pyvmm-layer-") as file:
        os.truncate(file.fileno(), size)
        options = ("-q", "-m", "0", "-E", "nodiscard,root_owner=0:0", "-O", "^has_journal")  # it survives no crash
        _run("mkfs.ext4", "e2fsprogs", *options, file.name)
        _run("mount", "mount", "-t", "ext4", "-o", "loop,nodev,noatime,discard", file.name, place)
    made = os.path.join(place, "root")
    for name in ("upper", "work", "root"):
        os.mkdir(os.path.join(place, name), 0o755)
    status = os.stat(root)
    os.chown(os.path.join(place, "upper"), status.st_uid, status.st_gid)
    os.chmod(os.path.join(place, "upper"), status.st_mode & 0o7777)
    layers = (f"lowerdir={_escaped(root)}", f"upperdir={_escaped(place)}/upper", f"workdir={_escaped(place)}/work")
    _run("mount", "mount", "-t", "overlay", "-o", ",".join(layers), "overlay", made)
    return made


def _escaped(path: str) -> str:
    """A path as an option of an overlay."""
    if "," in path or '"' in path:
        raise HostError(f"{path}: a root with a limit cannot have a comma or quote in its path", code="root-disk")
    return path.replace("\\", "\\\\").replace(":", "\\:")


def _run(name: str, package: str, *words: str) -> None:
    import shutil
    import subprocess

    program = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise HostError(
            f"a limit for the root's disk needs {name}, which is not installed",
            code="root-disk",
            hint=f"apt-get install {package}",
        )
    done = subprocess.run([program, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"{name}: {done.stderr.strip()[-300:]}", code="root-disk")
