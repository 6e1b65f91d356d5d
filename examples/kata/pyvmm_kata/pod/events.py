"""Events of a sandbox, and the listeners that receive them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from pyvmm_kata.pod.process import ExitStatus


class SandboxEvent(NamedTuple):
    """An event of a sandbox.

    :ivar kind: ``exit``: a process ended; ``oom``: the guest's kernel killed a process of a container because memory
        ran out; ``end``: the virtual machine has ended, and with it everything in it
    :ivar container_id: of which container, empty for ``end``
    :ivar exec_id: of which process, for ``exit``
    :ivar exit_status: for ``exit``
    :ivar reason: for ``end``, in words
    """

    kind: str
    container_id: str = ""
    exec_id: str = ""
    exit_status: ExitStatus | None = None
    reason: str = ""


class Listeners:
    """The listeners of one sandbox.  Any thread.

    :param lock: of the sandbox: an event waits for a container that is being made
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._all: list[Callable[[SandboxEvent], None]] = []

    def add(self, listener: Callable[[SandboxEvent], None]) -> None:
        """Call *listener* with each later event."""
        with self._lock:
            self._all.append(listener)

    def tell(self, event: SandboxEvent) -> None:
        """Call them, on the calling thread."""
        with self._lock:
            listeners = list(self._all)
        for listener in listeners:
            listener(event)
