"""The file that ``--pid-file`` names."""

from __future__ import annotations

import os

from pyvmm_kata.errors import HostError


def write_pid(path: str, pid: int) -> None:
    """Write a pid file, whole or not at all, and through nobody else's link."""
    temporary = f"{path}.{os.getpid()}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(temporary, "w", opener=lambda name, _: os.open(name, flags, 0o644)) as file:
            file.write(str(pid))
        os.rename(temporary, path)
    except OSError as error:
        raise HostError(f"--pid-file {path}: {error.strerror}", code="oci-pid-file") from error
