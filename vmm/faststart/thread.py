"""Threads without :mod:`threading`, whose import takes a twentieth of the instructions of a cold boot."""

from __future__ import annotations

import posix
import sys
from _thread import LockType, RLock, _local, allocate_lock, get_ident

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

if sys.version_info >= (3, 13):
    from _thread import start_joinable_thread

    def _start(main: Callable[[], None]) -> Callable[[], None]:
        """Start a thread; returns a function that waits until it runs no Python any more."""
        return start_joinable_thread(main).join
else:
    from _thread import _set_sentinel, start_new_thread  # type: ignore[attr-defined]

    def _start(main: Callable[[], None]) -> Callable[[], None]:
        """Start a thread; returns a function that waits until it runs no Python any more."""
        begins = allocate_lock()
        begins.acquire()
        ended: list[LockType] = []

        def run() -> None:
            lock = _set_sentinel()  # the interpreter releases it when it has forgotten the thread
            lock.acquire()
            ended.append(lock)
            begins.release()
            main()

        def join() -> None:
            with begins, ended[0]:
                pass

        start_new_thread(run, ())
        return join


class Thread:
    """Runs *target* once. It does not delay the interpreter's exit: what must not outlive it has an exit hook.

    :param name: the name in ``top -H``, up to 15 bytes
    """

    __slots__ = ("_join", "_target", "ident", "name")

    def __init__(self, target: Callable[[], None], name: str) -> None:
        self.name = name
        self.ident: int | None = None
        self._target = target
        self._join: Callable[[], None] | None = None

    def start(self) -> None:
        """Start it.

        :raises RuntimeError: the host has no thread left
        """
        self._join = _start(self._main)

    def _main(self) -> None:
        from vmm.native import lib

        self.ident = get_ident()
        lib.thread_set_name(self.name.encode())
        self._target()

    def join(self) -> None:
        """Wait until the thread runs no Python any more; returns at once if it was not started, or from the thread
        itself.

        The return of *target* is not enough. A thread that wants the interpreter's lock while this process ends is
        ended by pthread_exit(3), for which the C library opens libgcc_s, and a jail has no files.
        """
        if self._join is not None and self.ident != get_ident():
            self._join()


class ThreadAhead(Thread):
    """A thread that runs already, and waits for its work: making a thread takes much longer than waking it.

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
        """End it, if it has no work. A second call does nothing."""
        if self._begins.locked() and self._work is None:
            self._begins.release()
            self.join()


class Task:
    """Work in the background during other preparations: :meth:`join` raises what *work* raised."""

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
        """Wait and ignore the outcome: for clean-up."""
        self._thread.join()


_closing = _local()


class ClosingTogether:
    """A context in which :func:`close_slowly` of this thread does not wait; leaving it waits once for all of them."""

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
    """Close a descriptor for which the kernel waits until no CPU can still use it: a grace period of RCU, which takes
    ten milliseconds or more.

    Inside :class:`ClosingTogether` it is deferred; elsewhere it is an ordinary close.
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
