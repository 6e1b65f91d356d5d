"""Bind mounts, made and removed without a program."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from unittest import SkipTest

_libc = ctypes.CDLL(None, use_errno=True)
_MS_BIND, _MNT_DETACH = 4096, 2


def bind(source: Path | str, target: Path | str) -> None:
    """Mount *source*, a file or a directory, at *target*.  Skips without the right to."""
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(_MS_BIND), None):
        raise SkipTest(f"binding {source} at {target}: {os.strerror(ctypes.get_errno())}")


def unmount(target: Path | str) -> None:
    """Detach what is mounted there."""
    if _libc.umount2(os.fsencode(target), _MNT_DETACH):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
