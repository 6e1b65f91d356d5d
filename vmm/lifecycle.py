"""A machine's life: which calls its state allows, how its run ended, and the events that others wait for.

:data:`ALLOWED` is the table that the documents have; a test tries every call in every state.
"""

from __future__ import annotations

import posix
import time

from vmm.errors import ConfigError, HostError
from vmm.faststart.record import dataclass
from vmm.faststart.thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol, TypeVar

    class Closable(Protocol):
        """Has a ``close`` whose second call does nothing."""

        def close(self) -> None: ...

    Made = TypeVar("Made", bound=Closable)


MADE, RUNNING, PAUSED, ENDED, CLOSED = "made", "running", "paused", "ended", "closed"
STATES = (MADE, RUNNING, PAUSED, ENDED, CLOSED)
OPEN = (MADE, RUNNING, PAUSED, ENDED)

ALLOWED: dict[str, tuple[str, ...]] = {
    "attach": (MADE,),
    "run": (MADE,),
    "shutdown": (RUNNING,),
    "events": STATES,
    "memory": OPEN,
    "registers": (MADE, PAUSED, ENDED),
}
"""What may be called in which states; what is not here may be called in all but ``closed``.  The rows of
:data:`vmm.machine.interface.CALLS` are added to these."""


def permit(call: str, states: tuple[str, ...]) -> None:
    """Allow *call* in these states alone."""
    ALLOWED[call] = states


POWEROFF = "poweroff"
REBOOT = "reboot"
PANIC = "panic"
TRIPLE_FAULT = "triple-fault"
TIMEOUT = "timeout"
STOPPED = "stopped"
ERROR = "error"
END_KINDS = (POWEROFF, REBOOT, PANIC, TRIPLE_FAULT, TIMEOUT, STOPPED, ERROR)
DEVICE_LOST = "device-lost"
"""The server of a device has ended, such as ``pyvmm-fsd`` or passt; the machine continues."""
EVENT_KINDS = (
    *("started", "restored", "paused", "resumed", "snapshot", "forked", "reset", "power-button"),
    *(DEVICE_LOST, *END_KINDS),
)


@dataclass(frozen=True)
class Event:
    """Something that happened to a machine.

    :ivar kind: one of :data:`EVENT_KINDS`
    :ivar detail: in words, may be empty
    :ivar at: ``time.monotonic()`` of the event
    """

    kind: str
    detail: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class EndEvent:
    """How a run ended.

    :ivar kind: one of :data:`END_KINDS`: the guest powered off, rebooted, panicked (reported through the pvpanic
        device) or triple-faulted; its time was over; the host stopped it; or it could not continue
    :ivar detail: in words, may be empty
    :ivar error: for ``error``: the exception
    :ivar at: ``time.monotonic()`` of the event
    """

    kind: str
    detail: str = ""
    error: BaseException | None = None
    at: float = 0.0


class Life:
    """The state, and how the run ended. Unless stated otherwise, any method may be called from any thread and from a
    signal handler."""

    def __init__(self) -> None:
        self.stage = MADE
        """What the host's side has done; see :attr:`state`."""
        self.end: EndEvent | None = None
        # The first caller that acquires it is the cause of the end.  Not "test, then set": a signal handler may come in
        # between
        self._claim = allocate_lock()
        # Held until the run has ended.  Not an Event: a signal handler that sets one while its own thread is on the way
        # into wait() would wait for itself
        self._running = allocate_lock()
        self._running.acquire()
        self._listeners: list[Callable[[Event | EndEvent], None]] = []

    @property
    def state(self) -> str:
        """One of :data:`STATES`."""
        stage = self.stage
        return ENDED if self.end is not None and stage in (RUNNING, PAUSED) else stage

    def check(self, call: str) -> None:
        """
        :raises ConfigError: *call* is not allowed in this state
        """
        state = self.state
        allowed = ALLOWED.get(call, OPEN)
        if state not in allowed:
            raise ConfigError(
                f"cannot {call.replace('_', ' ')} a machine that is {state}"
                if call not in ("memory", "registers")
                else f"the {call} cannot be read while the machine is {state}",
                code="machine-state",
                hint=f"it can be done while it is {' or '.join(allowed)}",
            )

    def finish(self, kind: str, detail: str, error: BaseException | None) -> EndEvent | None:
        """The run ends now: returns the event, or None if it had ended already. :meth:`tell_end` follows."""
        if not self._claim.acquire(blocking=False):
            return None
        return EndEvent(kind, detail, error, time.monotonic())

    def tell_end(self, end: EndEvent) -> None:
        """Report the end: first to those in :meth:`wait`."""
        self.end = end
        self._running.release()
        self._publish(end)

    @property
    def is_over(self) -> bool:
        """The run has ended, or its end is about to be reported."""
        return self._claim.locked()

    def begin_again(self) -> None:
        """A reset: forget how the previous run ended. No vCPU runs; one caller at a time."""
        if self._claim.locked():
            self._running.acquire()  # until tell_end() of another thread is through
            self.end = None
            self._claim.release()

    def wait(self, timeout: float | None = None) -> EndEvent | None:
        """Wait until the run has ended, at most *timeout* seconds."""
        if self.end is None and self._running.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            self._running.release()  # for the next who waits
        return self.end

    def publish(self, kind: str, detail: str = "") -> None:
        """Tell the listeners."""
        if self._listeners:
            self._publish(Event(kind, detail, time.monotonic()))

    def _publish(self, event: Event | EndEvent) -> None:
        for listener in list(self._listeners):
            listener(event)

    def stream(self) -> EventStream:
        """All events from now on, one after the other."""
        return EventStream(self)

    def listen(self, listener: Callable[[Event | EndEvent], None]) -> Callable[[], None]:
        """Call *listener* with every event from now on, on the thread where it happens: it must not block, and may
        receive the end twice. If the run has ended already, it is called with that at once.

        :returns: called to stop it, any number of times
        """
        self._listeners.append(listener)
        end = self.end
        if end is not None:
            listener(end)

        def forget() -> None:
            try:
                self._listeners.remove(listener)
            except ValueError:
                pass

        return forget


def refusal(error: BaseException) -> HostError | None:
    """The host has no descriptor, memory or thread left for a part of a machine, which reports that in its own way.

    What is an error of the package already gets the hint for descriptors.
    """
    if isinstance(error, HostError) and error.errno == _EMFILE:
        error.hint = NO_DESCRIPTOR
        return None
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        what, number = posix.strerror(error.errno), error.errno
    elif isinstance(error, RuntimeError) and "new thread" in str(error):
        what, number = "no thread left", _EAGAIN
    else:
        return None
    hint = "see the limits of this process (ulimit -a) and of its control group"
    if number == _EMFILE:
        hint = NO_DESCRIPTOR
    return HostError(f"cannot make the machine: {what}", code="host-limit", hint=hint, errno=number)


NO_DESCRIPTOR = "raise the limit of open files (ulimit -n), or close machines and forks that this process has"
"""A hint."""
_EMFILE = 24
_EAGAIN = 11
_SHORTAGES = (_EAGAIN, 12, 23, _EMFILE)
"""EAGAIN, ENOMEM, ENFILE, EMFILE."""


CHILDREN_MAX = 256
"""Most children of one fork; of a machine in a jail, most that live at one time."""


def check_children(n: int) -> None:
    """
    :raises ConfigError: a fork cannot have that number of children
    """
    if not 1 <= n <= CHILDREN_MAX:
        raise ConfigError(f"a fork into {n} children", code="fork-children", hint=f"give 1 to {CHILDREN_MAX}")


def make_children(point: Closable, n: int, make: Callable[[int], Made]) -> list[Made]:
    """The results of *make* with *point* for 0 to *n* - 1: all of them, or none. Closes *point*."""
    children: list[Made] = []
    try:
        for number in range(n):
            children.append(make(number))
    except BaseException:
        for child in children:
            child.close()
        raise
    finally:
        point.close()
    return children


class EventStream:
    """Made by :meth:`Life.stream`: the events of a machine, in order; the last one is an :class:`EndEvent`.

    Each stream gets all events after its creation. :meth:`close` ends it early, from any thread.
    """

    def __init__(self, life: Life) -> None:
        from vmm.faststart.builtin import SimpleQueue

        # Its put() may be interrupted by itself: a signal handler may end the run
        self._queue: SimpleQueue[Event | EndEvent | None] = SimpleQueue()
        self._forget = life.listen(self._queue.put)
        self._over = False

    def __iter__(self) -> Iterator[Event | EndEvent]:
        return self

    def __next__(self) -> Event | EndEvent:
        event = None if self._over else self._queue.get()
        if event is None or isinstance(event, EndEvent):
            self.close()
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """End the events.  A second call does nothing."""
        self._over = True
        self._forget()
        self._queue.put(None)

    def __del__(self) -> None:
        self._forget()
