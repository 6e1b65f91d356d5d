"""What runs when the interpreter exits is closed: threads in C must not outlive the memory that they use."""

from __future__ import annotations

import atexit

from vmm.faststart.builtin import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_open: dict[int, ref[Any]] = {}
"""By id.  Not a WeakSet, for what importing :mod:`weakref` costs."""


def watch(thing: Any) -> None:
    """Call ``thing.close()`` at the exit, unless it is garbage by then."""
    key = id(thing)
    _open[key] = ref(thing, lambda _: _open.pop(key, None))


def forget(thing: Any) -> None:
    """It is closed."""
    _open.pop(id(thing), None)


def _close_all() -> None:
    for reference in list(_open.values()):
        thing = reference()
        if thing is not None:
            thing.close()


atexit.register(_close_all)
