"""Files that requests name."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from pyvmm_firecracker.fault import Fault
from vmm import ConsoleConfig

if TYPE_CHECKING:
    from typing import Any


def readable(path: str | None, what: str) -> None:
    """
    :raises Fault: *path* is given, and no file or block device that this process can read
    """
    if path is None:
        return
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise Fault(f"{what} {path:.200} cannot be opened: {error.strerror}.") from error
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise Fault(f"{what} {path:.200} is neither a file nor a block device.")
    if not os.access(path, os.R_OK):
        raise Fault(f"{what} {path:.200} cannot be opened: Permission denied.")


def console_file(path: str) -> ConsoleConfig:
    """A console whose output is appended to a file; what a FIFO's reader does not take is dropped.

    :raises Fault: it cannot be opened
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Fault(f"Failed to open the serial output {path:.200}: {error.strerror}.") from error
    return ConsoleConfig("fd", fd, True)


def append(path: str, what: str) -> Any:
    """A file to append lines to.  A FIFO without a reader is refused instead of waited for.

    :raises Fault: it cannot be opened
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Fault(f"Failed to open the {what} file {path}: {error.strerror}.") from error
    return os.fdopen(fd, "w")
