"""Environment variables, without what importing :mod:`os` costs."""

from __future__ import annotations

import posix
import sys


def variable(name: str) -> str:
    """The value of the environment variable *name*, empty when it is not set."""
    os = sys.modules.get("os")
    if os is not None:
        # It has been imported, and the environment may have been changed through it
        value: str = os.environ.get(name, "")
        return value
    return posix.environ.get(name.encode(), b"").decode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
