"""Stacks of objects to close: one for a machine, and one for each device in it, which an unplug closes alone.

Machines that are open when the interpreter exits are closed then: threads in C must not outlive the memory they use.
"""

from __future__ import annotations

import atexit

from vmm.errors import HostError
from vmm.faststart.builtin import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, TypeVar

    class Closable(Protocol):
        """Has a ``close`` whose second call does nothing."""

        def close(self) -> None: ...

    T = TypeVar("T", bound=Closable)


class Owned:
    """Closed in the reverse order of creation: workers before the memory and descriptors that they use."""

    def __init__(self) -> None:
        self._things: list[Closable] = []

    def __len__(self) -> int:
        return len(self._things)

    def add(self, thing: T) -> T:
        """Close *thing* with this one; returns it."""
        self._things.append(thing)
        return thing

    def branch(self) -> Owned:
        """A new stack that is closed with this one, or before: see :meth:`discard`."""
        return self.add(Owned())

    def discard(self, thing: Closable) -> None:
        """Remove it without closing it, since its user has closed it. No effect if it is not here."""
        self._things[:] = [each for each in self._things if each is not thing]

    def close(self) -> None:
        """Close everything.

        :raises HostError: something could not be closed; everything else is closed nevertheless
        """
        first: BaseException | None = None
        while self._things:
            try:
                self._things.pop().close()
            except Exception as error:
                first = first or error
        if first is not None:
            raise HostError(f"closing the machine: {first}", code="close") from first


class Native:
    """A cdata object, freed by a function of the C library."""

    def __init__(self, cdata: Any, free: Any) -> None:
        self._cdata = cdata
        self._free = free

    def close(self) -> None:
        """Free it; a second call has no effect."""
        if self._cdata is not None:
            self._free(self._cdata)
            self._cdata = None


_open: dict[int, ref[Any]] = {}
"""By id.  Not a WeakSet, for what importing :mod:`weakref` costs."""


def close_at_exit(thing: Closable) -> None:
    """Close *thing* at the exit of the interpreter, unless it was collected by then."""
    key = id(thing)
    _open[key] = ref(thing, lambda _: _open.pop(key, None))


def is_closed(thing: Closable) -> None:
    """Remove *thing* from those that are closed at the exit."""
    _open.pop(id(thing), None)


def _close_all() -> None:
    for reference in list(_open.values()):
        thing = reference()
        if thing is not None:
            thing.close()


atexit.register(_close_all)
