"""Messages of the library that no caller receives: to :mod:`logging`, if the program uses that.

If nothing has imported it, nobody has configured it, and it would print a warning as a line on stderr. Its import takes
milliseconds, and a process that has given up its files cannot import any more.
"""

from __future__ import annotations

import sys


def debug(name: str, text: str) -> None:
    """Log a message for debugging, by the logger *name*, if :mod:`logging` is imported."""
    if "logging" in sys.modules:
        _tell(name, "debug", text)


def warn(name: str, text: str) -> None:
    """A warning of the logger *name*."""
    _tell(name, "warning", text)


def error(name: str, text: str) -> None:
    """An error of the logger *name*."""
    _tell(name, "error", text)


def _tell(name: str, level: str, text: str) -> None:
    logging = sys.modules.get("logging")
    if logging is not None:
        getattr(logging.getLogger(name), level)("%s", text)
    elif sys.stderr is not None:
        try:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        except OSError:
            pass  # no space, or a log that is as long as it may be
