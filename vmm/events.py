"""Event descriptors and the control loop."""

from __future__ import annotations

import posix
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class EventFd:
    """An eventfd(2): a kick, an irq, a stop.  Owns its descriptor; non-blocking, close-on-exec."""

    def __init__(self) -> None:
        self.fd = posix.eventfd(0, posix.EFD_CLOEXEC | posix.EFD_NONBLOCK)

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self.fd

    def signal(self) -> None:
        """Add one to the counter."""
        try:
            posix.eventfd_write(self.fd, 1)
        except BlockingIOError:
            pass  # its counter is at the maximum: the reader has been woken

    def clear(self) -> int:
        """Read and zero the counter; 0 when it was zero. Never blocks, even if another process changed the flags."""
        value = bytearray(8)
        try:
            posix.preadv(self.fd, [value], -1, posix.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        return int.from_bytes(value, "little")

    def close(self) -> None:
        """Close the descriptor.  A second call does nothing."""
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1


class Timer:
    """A call that a :class:`Loop` makes once.

    :ivar at: when, by time.monotonic()
    """

    __slots__ = ("_callback", "at")

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call it.  Without effect afterwards."""
        self._callback = None

    def ring(self) -> None:
        """Call it once, unless it was cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Loop:
    """One epoll loop, run by one thread: it calls the callbacks of ready descriptors and of timers.

    :meth:`add`, :meth:`remove`, :meth:`call_later` and :meth:`stop` may be called from any thread and from callbacks.
    """

    def __init__(self) -> None:
        self._wake = EventFd()
        try:
            self._epoll = select.epoll()
        except OSError:
            self._wake.close()
            raise
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._epoll.register(self._wake.fd, select.EPOLLIN)
        self._stopped = False
        self.rested: Callable[[], None] = lambda: None
        """Called by :meth:`run` when what was ready has been served."""

    def add(self, fd: int, callback: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call ``callback(ready events)`` whenever *fd* is ready (level-triggered)."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, events)

    def remove(self, fd: int) -> None:
        """Remove *fd*; no effect if it was not added."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* once, *seconds* from now or a little later, unless the timer is cancelled."""
        timer = Timer(time.monotonic() + seconds, callback)
        self._timers.append(timer)
        self.wake()
        return timer

    def _until_timer(self, timeout: float | None) -> float:
        """Seconds to wait for descriptors, at most *timeout*."""
        left = max(min(timer.at for timer in self._timers) - time.monotonic(), 0.0)
        return left if timeout is None else min(left, timeout)

    def _ring_timers(self) -> None:
        now = time.monotonic()
        due = [timer for timer in self._timers if timer.at <= now]
        for timer in due:
            self._timers.remove(timer)
            timer.ring()

    def run_once(self, timeout: float | None = None) -> bool:
        """Wait up to *timeout* seconds (None: for ever), or for a timer, and serve what is ready; False if no
        descriptor was."""
        ready = self._epoll.poll(self._until_timer(timeout) if self._timers else timeout)
        for fd, events in ready:
            if fd == self._wake.fd:
                self._wake.clear()
                continue
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(events)
        if self._timers:
            self._ring_timers()
        return bool(ready)

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        while not self._stopped:
            self.run_once()
            self.rested()

    def stop(self) -> None:
        """Make :meth:`run` return."""
        self._stopped = True
        self.wake()

    def wake(self) -> None:
        """Make a waiting :meth:`run_once` return."""
        if self._wake.fd >= 0:
            self._wake.signal()

    def close(self) -> None:
        """Close the loop's own descriptors; the owners close those that were added."""
        self._callbacks.clear()
        self._timers.clear()
        if not self._epoll.closed:
            self._epoll.close()
        self._wake.close()
