"""Environment variables, without what importing :mod:`os` costs."""

from __future__ import annotations

import posix
import sys


def sha256(data: bytes) -> str:
    """In hexadecimal digits.  `hashlib` would load OpenSSL for it."""
    try:
        from _sha2 import sha256 as digest  # type: ignore[import-not-found,unused-ignore]
    except ImportError:  # Python 3.11
        from hashlib import sha256 as digest
    return str(digest(data).hexdigest())


def variable(name: str) -> str:
    """The value of the environment variable *name*, empty when it is not set."""
    os = sys.modules.get("os")
    if os is not None:
        # It has been imported, and the environment may have been changed through it
        value: str = os.environ.get(name, "")
        return value
    return posix.environ.get(name.encode(), b"").decode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
