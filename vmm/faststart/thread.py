"""Threads without :mod:`threading`, whose import takes a twentieth of the instructions of a cold boot."""

from __future__ import annotations

import posix
from _thread import LockType, RLock, _local, allocate_lock, get_ident, start_new_thread

__all__ = [
    "ClosingTogether",
    "LockType",
    "RLock",
    "Task",
    "Thread",
    "ThreadAhead",
    "allocate_lock",
    "close_slowly",
    "get_ident",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Thread:
    """Runs *target* once.  It does not hold the interpreter's exit up: what must not outlive it has an exit hook.

    :param name: what ``top -H`` shows, of up to 15 bytes
    """

    __slots__ = ("_running", "_target", "ident", "name")

    def __init__(self, target: Callable[[], None], name: str) -> None:
        self.name = name
        self.ident: int | None = None
        self._target = target
        self._running = allocate_lock()

    def start(self) -> None:
        """Start it.

        :raises RuntimeError: the host has no thread left
        """
        self._running.acquire()
        try:
            start_new_thread(self._main, ())
        except BaseException:
            self._running.release()
            raise

    def _main(self) -> None:
        self.ident = get_ident()
        try:
            from vmm.native import lib

            lib.thread_set_name(self.name.encode())
            self._target()
        finally:
            self._running.release()

    def join(self) -> None:
        """Wait until *target* has returned; at once when it was not started, or from the thread itself."""
        if self.ident != get_ident():
            with self._running:
                pass


class ThreadAhead(Thread):
    """One that runs already, and waits for what it is to do: to make a thread takes much longer than to wake it.

    :raises RuntimeError: the host has no thread left
    """

    __slots__ = ("_begins", "_work")

    def __init__(self, name: str) -> None:
        super().__init__(self._wait, name)
        self._work: Callable[[], None] | None = None
        self._begins = allocate_lock()
        self._begins.acquire()
        super().start()

    def _wait(self) -> None:
        self._begins.acquire()
        if self._work is not None:
            self._work()

    def begin(self, work: Callable[[], None]) -> None:
        """Have it do *work*.  Once, and not after :meth:`close`."""
        self._work = work
        self._begins.release()

    def close(self) -> None:
        """End it, if it has got no work.  A second call does nothing."""
        if self._begins.locked() and self._work is None:
            self._begins.release()
            self.join()


class Task:
    """Work in the background while something else is made ready: :meth:`join` raises what *work* raised."""

    __slots__ = ("_error", "_thread", "_work")

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = Thread(self._main, name)
        self._thread.start()

    def _main(self) -> None:
        try:
            self._work()
        except BaseException as error:  # raised again where the result is wanted
            self._error = error

    def join(self) -> None:
        """Wait; any number of times."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait and forget how it went: for clean-up."""
        self._thread.join()


_closing = _local()


class ClosingTogether:
    """A context in which :func:`close_slowly` of this thread does not wait; leaving it does, once for all of them."""

    __slots__ = ("_outer", "_threads")

    def __enter__(self) -> None:
        self._outer: list[Thread] | None = getattr(_closing, "threads", None)
        self._threads: list[Thread] = []
        _closing.threads = self._threads

    def __exit__(self, *exc: object) -> None:
        _closing.threads = self._outer
        for thread in self._threads:
            thread.join()


def close_slowly(fd: int) -> None:
    """Close a descriptor for which the kernel waits until no CPU can still use what it was: a grace period of RCU,
    which is ten milliseconds and more.

    See :class:`ClosingTogether`; elsewhere it is an ordinary close.
    """
    threads: list[Thread] | None = getattr(_closing, "threads", None)
    if threads is not None:
        thread = Thread(lambda: posix.close(fd), "closing")
        try:
            thread.start()
        except RuntimeError:
            pass  # no thread is left
        else:
            threads.append(thread)
            return
    posix.close(fd)
