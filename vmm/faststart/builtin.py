"""Parts of Python's library by their C modules, without the start-up cost of the rest of :mod:`os`, :mod:`signal` and
others.

Each is the documented module's own part, in every CPython from 3.11 on (decision 0006).  What is needed of
:mod:`threading` is in :mod:`vmm.faststart.thread`, :mod:`ctypes` in :mod:`vmm.faststart.ctype`. Nothing else names such
a module.
"""

from __future__ import annotations

import posix
import sys

__all__ = ["Empty", "SimpleQueue", "blake2b", "ref", "sha256", "signal", "socket", "stat", "variable"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    import _stat as stat
    import signal
    from _blake2 import blake2b
    from _queue import Empty, SimpleQueue
    from _weakref import ref
else:

    def __getattr__(name: str) -> object:
        """Import the requested one: not every CPython has all of them in its executable."""
        modules = {"Empty": "_queue", "SimpleQueue": "_queue", "blake2b": "_blake2", "ref": "_weakref"}
        if name in modules:
            found = getattr(__import__(modules[name]), name)
        elif name in ("signal", "socket", "stat"):
            found = __import__(f"_{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


_SHA256 = "_sha2" if sys.version_info >= (3, 12) else "_sha256"


def sha256(data: bytes) -> str:
    """In hexadecimal digits.  `hashlib` would load OpenSSL for it."""
    # Not by an import that fails: in a jail no file can be looked for, and Python looks again each time
    module = sys.modules.get(_SHA256) or __import__(_SHA256)
    return str(module.sha256(data).hexdigest())


def variable(name: str) -> str:
    """The value of the environment variable *name*, empty when it is not set."""
    os = sys.modules.get("os")
    if os is not None:
        # It has been imported, and the environment may have been changed through it
        value: str = os.environ.get(name, "")
        return value
    return posix.environ.get(name.encode(), b"").decode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
