"""The root file system of a container, as containerd describes it: mounts of its snapshotter."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import TYPE_CHECKING

from pyvmm_kata.bundle.root_disks import FSTYPES, RootDisk, is_disk, open_disk
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host.mounts import MS_BIND, MS_RDONLY, MS_REC, MS_REMOUNT, mount, unmount

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm_kata.protocol.protobuf import Message

FLAGS = {
    "bind": MS_BIND,
    "rbind": MS_BIND | MS_REC,
    "ro": MS_RDONLY,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
}
NO_FLAGS = ("rw", "suid", "dev", "exec", "async", "atime", "defaults", "loop")
"""Options that ask for what is so anyway. `loop` has its own error."""

NOT_OF_DISKS = ("device=", "offset=", "sizelimit=")
"""Options of what is more, or less, than one disk."""

LAYERS = "lowerdir="
CLONE_FS = 0x200
MAX_DATA = 4095  # the kernel takes one page of options, with a zero byte at its end


def as_disk(mounts: Sequence[Message]) -> RootDisk | None:
    """The disk in a CreateTaskRequest's `rootfs`, which the guest can mount itself; None: it is something else.

    Raises ConfigError for a disk that no guest could mount.
    """
    if len(mounts) != 1 or mounts[0].type not in FSTYPES or mounts[0].target or not is_disk(mounts[0].source):
        return None
    options = [option for option in mounts[0].options if option not in ("ro", *NO_FLAGS)]
    if any(option.startswith(NOT_OF_DISKS) for option in options):
        return None
    return open_disk(mounts[0].source, read_only="ro" in mounts[0].options, options=options)


def mount_rootfs(mounts: Sequence[Message], target: str) -> None:
    """Mount a CreateTaskRequest's `rootfs` at `target`, one over the other.

    Raises ConfigError for an invalid mount, HostError if the kernel refuses; nothing is mounted then.
    """
    try:
        for number, one in enumerate(mounts):
            _mount(one, target, f"rootfs[{number}]")
    except BaseException:
        unmount(target)
        raise


def _mount(one: Message, target: str, where: str) -> None:
    if one.target:
        raise ConfigError(f"{where}.target: {one.target!r}: only mounts of the root itself are known", code="rootfs")
    if "loop" in one.options:
        raise ConfigError(
            f"{where}: {one.source} would need a loop device",
            code="rootfs",
            hint="use a snapshotter that gives directories: overlayfs or native",
        )
    flags = 0
    data = []
    for option in one.options:
        if option in FLAGS:
            flags |= FLAGS[option]
        elif option not in NO_FLAGS:
            data.append(option)
    text = ",".join(data)
    folder = ""
    if len(text) > MAX_DATA:
        folder, text = _shorten(data)
    if len(text) > MAX_DATA:
        raise ConfigError(
            f"{where}: {len(text)} bytes of mount options, the kernel takes {MAX_DATA}",
            code="rootfs",
            hint="an image of so many layers needs the snapshotter `native`",
        )
    if flags & MS_BIND:
        # The kernel looks at no other flag when it binds; they are set by a second call.
        mount(one.source, target, "", flags & (MS_BIND | MS_REC))
        if flags & ~(MS_BIND | MS_REC):
            mount("", target, "", MS_REMOUNT | MS_BIND | flags & ~MS_REC)
    else:
        _in_folder(folder, lambda: mount(one.source, os.path.abspath(target), one.type, flags, text))


def _shorten(options: Sequence[str]) -> tuple[str, str]:
    """A folder, and the options of an overlay with its layers relative to it."""
    layers = [path for option in options if option.startswith(LAYERS) for path in option[len(LAYERS) :].split(":")]
    if not layers or not all(path.startswith("/") for path in layers):
        return "", ",".join(options)
    folder = os.path.commonpath([os.path.dirname(path) for path in layers])
    short = LAYERS + ":".join(os.path.relpath(path, folder) for path in layers)
    return folder, ",".join(short if option.startswith(LAYERS) else option for option in options)


def _in_folder(folder: str, work: Callable[[], None]) -> None:
    """Run a function in a thread of its own with the working directory `folder`, without effect on other threads."""
    if not folder:
        work()
        return
    failure: list[BaseException] = []

    def run() -> None:
        try:
            _unshare_directory()
            try:
                os.chdir(folder)
            except OSError as error:
                raise HostError(f"{folder:.200}: {error.strerror}", code="rootfs", errno=error.errno or 0) from error
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="rootfs")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _unshare_directory() -> None:
    """Give this thread a working directory of its own (unshare(2), CLONE_FS). Raises HostError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_FS):
        number = ctypes.get_errno()
        raise HostError(f"unshare: {os.strerror(number)}", code="rootfs", errno=number)
