"""A table on the terminal that is drawn again in intervals, until the user ends it: ``pyvmm top``, ``pyvmm stats``."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import sys
import termios
import threading
import time
import tty
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

INTERVAL_S = 1.0
_LEAST, _MOST = 0.1, 86400
# xterm's alternate screen; no cursor; lines are cut at the right margin
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_QUIT = b"qQ\x03"


class View(Protocol):
    """What is shown."""

    def sample(self) -> None:
        """Measure.

        :raises VmmError: there is nothing to show any more
        """

    def text(self) -> str:
        """The last sample as a table."""

    def json(self) -> object:
        """The last sample."""


def add_options(made: argparse.ArgumentParser) -> None:
    """The options of a command with a live table."""
    made.add_argument("--no-stream", action="store_true", help="show it once, as where the output is no terminal")
    made.add_argument(
        "--interval",
        type=float,
        metavar="SECONDS",
        help=f"between two times (default: {INTERVAL_S:g}); also where the output is no terminal, or with --json",
    )


def check_options(options: argparse.Namespace, made: argparse.ArgumentParser) -> None:
    """Exit with a message about an invalid interval."""
    if options.interval is not None and not _LEAST <= options.interval <= _MOST:
        made.error(f"--interval {options.interval:g} is not {_LEAST:g} to {_MOST}")


def show(view: View, options: argparse.Namespace, title: str) -> int:
    """Show it once, in intervals, or live on a terminal; returns the exit status.

    :raises VmmError: of :meth:`View.sample`
    """
    if options.no_stream or (options.interval is None and (options.json or not _is_screen())):
        view.sample()
        _print(view, as_json=options.json, indent=2)
    elif options.json or not _is_screen():
        for number in range(sys.maxsize):
            view.sample()
            if number and not options.json:
                print()
            _print(view, as_json=options.json)
            time.sleep(options.interval)  # the user asked for this interval
    else:
        _Screen(view, options.interval or INTERVAL_S, title).run()
    return 0


def _is_screen() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _print(view: View, *, as_json: bool, indent: int | None = None) -> None:
    if as_json:
        import json

        print(json.dumps(view.json(), indent=indent), flush=True)
    else:
        sys.stdout.write(view.text())
        sys.stdout.flush()


class _Screen:
    """Draws the table.  Another thread takes the samples: a guest that does not answer delays no key."""

    def __init__(self, view: View, interval: float, title: str) -> None:
        self._view = view
        self._interval = interval
        self._title = title
        self._saved: list[Any] | None = None
        self._table = ""
        self._woken, self._waker = os.pipe()
        self._samples: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()
        self._ended = threading.Event()

    def run(self) -> None:
        """Draw until the user ends it.

        :raises VmmError: of :meth:`View.sample`
        """
        for fd in (self._woken, self._waker):
            os.set_blocking(fd, False)
        with self._signals():
            try:
                self._enter()
                threading.Thread(target=self._sample, name="samples", daemon=True).start()
                self._loop()
            except KeyboardInterrupt:
                pass  # the usual end
            finally:
                self._ended.set()
                self._leave()

    def _sample(self) -> None:
        while not self._ended.is_set():
            found: str | BaseException
            try:
                self._view.sample()
                found = self._view.text()
            except BaseException as error:
                found = error
            self._samples.put(found)
            self._wake()
            if isinstance(found, BaseException) or self._ended.wait(self._interval):
                return

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is full, so the other side wakes up
            os.write(self._waker, b"\0")

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if self._saved is not None:
            poll.register(0, select.POLLIN)
        self._draw()  # before the first sample, which may take a while
        while True:
            for fd, _ in poll.poll():
                data = b""
                with contextlib.suppress(BlockingIOError):
                    data = os.read(fd, 4096)
                if fd == 0 and not data:
                    poll.unregister(0)  # the terminal is gone: a signal ends this
                elif fd == 0 and any(key in _QUIT for key in data):
                    return
            while not self._samples.empty():
                found = self._samples.get()
                if isinstance(found, BaseException):
                    raise found
                self._table = found
            self._draw()

    def _draw(self) -> None:
        _, rows = os.get_terminal_size(1)
        head = f"{self._title}   {time.strftime('%H:%M:%S')}, every {self._interval:g} s, q ends it"
        lines = [head, "", *self._table.splitlines()][: max(rows, 1)]
        self._write(_HOME + "\n".join(line + _REST_OF_LINE for line in lines) + _REST_OF_SCREEN)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    # -- the terminal ------------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        try:
            self._saved = termios.tcgetattr(0)
            tty.setcbreak(0)  # Ctrl-C and Ctrl-Z remain signals
        except termios.error:
            self._saved = None  # standard input is no terminal
        self._write(_ENTER)

    def _leave(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            self._write(_LEAVE)
        if self._saved is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        handlers: dict[signal.Signals, Callable[[int, Any], None]] = {
            signal.SIGWINCH: lambda *_: self._wake(),
            signal.SIGTSTP: lambda *_: self._suspend(),
            signal.SIGTERM: _exit,
            signal.SIGHUP: _exit,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            # Python runs a handler only once poll(2) has returned, and repeats the call otherwise
            signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _suspend(self) -> None:
        self._leave()
        signal.raise_signal(signal.SIGSTOP)
        self._enter()
        self._wake()


def _exit(number: int, _frame: Any) -> None:
    sys.exit(128 + number)
