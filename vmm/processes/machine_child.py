"""The child process of an isolated machine: its start, its requests, its reports and its end."""

from __future__ import annotations

import os
import signal
import socket

from vmm.config import THREAD
from vmm.errors import HostError
from vmm.faststart.record import replace
from vmm.faststart.thread import Thread, get_ident
from vmm.lifecycle import END_KINDS, ERROR, refusal
from vmm.processes.answers import error_of, lines, nonsense, parsed, text
from vmm.processes.jailed import ANSWER_MAX, STOP_SECONDS, Jailed
from vmm.processes.spawn import PACKAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import Popen
    from typing import Any, Protocol

    from vmm.config import MachineConfig
    from vmm.processes.spawn import Process

    class Reports(Protocol):
        """Receives what the process reports, on a thread of the child's."""

        def end(self, kind: str, detail: str, error: BaseException | None = None) -> None:
            """The run has ended."""

        def lose_device(self, why: str) -> None:
            """What served a device has ended."""

        def take_input(self) -> None:
            """The console takes input again."""

        @property
        def is_running(self) -> bool:
            """The run has begun, and has not ended."""


_PATIENCE = 5.0
_LOST_MAX = 64
"""Events of lost devices."""


def _pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets.

    :raises HostError: no descriptors are left
    """
    try:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise refusal(error) or error from error


class MachineChild:
    """The process of an :class:`~vmm.processes.isolated.IsolatedMachine`, from its start to its end; :meth:`close` is
    its end.

    :param config: of the machine
    :param wanted: the request for the machine, as :mod:`vmm.processes.machine_process` receives it
    :param fds: descriptors that belong to it: the console's, and what a child of a fork is made of
    :param run: starts the process with the descriptor of its end of the socket; raises OSError
    :param reports: receives what it reports
    :ivar process: it
    :ivar jailed: its requests
    :ivar stopped: how the run ends when the process exits without a report; empty: as an error
    """

    def __init__(
        self,
        config: MachineConfig,
        wanted: dict[str, Any],
        fds: tuple[int, ...],
        run: Callable[[int], Popen[bytes] | Process],
        reports: Reports,
    ) -> None:
        self._reports = reports
        self._ident: int | None = None
        self.stopped: tuple[str, str] | None = None
        self._leaving = False
        self._lost = 0
        self._pidfd = -1
        self._sock, theirs = _pair()
        try:
            self._events, events = _pair()
        except HostError:
            self._sock.close()
            theirs.close()
            raise
        self._reader = Thread(self._read, "machine")
        with events:
            try:
                with theirs:
                    self._run(run, theirs.fileno())
                self._open_process()
            except BaseException:
                self._sock.close()
                self._events.close()
                raise
            self.jailed = Jailed(self._sock, self._pidfd, replace(config, isolation=THREAD))
            try:
                self._reader.start()
                self.jailed.ask("make", (events.fileno(), *fds), package=PACKAGE, **wanted)
            except BaseException as error:
                self.close()
                if (refused := refusal(error)) is not None:
                    raise refused from error
                raise

    def _run(self, run: Callable[[int], Popen[bytes] | Process], fd: int) -> None:
        try:
            self.process: Popen[bytes] | Process = run(fd)
        except OSError as error:
            raise HostError(
                f"no process for the machine: {error.strerror}", code="isolation-process", errno=error.errno or 0
            ) from error

    def _open_process(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.process.pid)
        except OSError as error:
            self._sock.close()
            self.process.wait(None)  # it has read nothing yet, and ends
            raise refusal(error) or error from error

    def is_reader(self) -> bool:
        """It is the thread that reports the run's end."""
        return self._ident == get_ident()

    def _read(self) -> None:
        self._ident = get_ident()
        try:
            while data := self._events.recv(ANSWER_MAX):
                told = parsed(data)
                if "space" in told:
                    self._reports.take_input()
                    continue
                if "lost" in told:
                    self._lose_device(text(told["lost"], 4096))
                    continue
                kind, detail, error = text(told.get("end")), lines(told.get("detail")), error_of(told.get("error"))
                if kind not in END_KINDS:
                    raise nonsense()
                if not self._leaving:
                    self._reports.end(kind, detail, error)
        except HostError as wrong:  # another program answers there
            self._kill()
            self._reports.end(ERROR, str(wrong), wrong)
        except OSError:
            pass
        if not self._leaving and self._reports.is_running:
            self._tell_of_death()

    def _lose_device(self, why: str) -> None:
        # A guest may have the process: who listens keeps what it is told
        self._lost += 1
        if self._lost <= _LOST_MAX:
            self._reports.lose_device(why)

    def _tell_of_death(self) -> None:
        if self.stopped is not None:
            self._reports.end(*self.stopped)
            return
        how = ""
        try:
            status = self.process.wait(_PATIENCE)
            how = f" with status {status}" if status >= 0 else f" of {signal.Signals(-status).name}"
        except Exception:  # it closed its sockets and lives, or another thread has reaped it
            self._kill()
        error = HostError(f"the machine's process has ended{how}", code="isolation-ended")
        self._reports.end(ERROR, str(error), error)

    def _kill(self) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Request its end, and wait for it. Harmless when done twice."""
        if self._pidfd < 0:
            return
        import select

        self._leaving = True
        self._sock.close()
        self.jailed.close_base()
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        has_ended = poll.poll(STOP_SECONDS * 1000)
        if not has_ended:
            self._kill()
            has_ended = poll.poll(_PATIENCE * 1000)
        if has_ended:
            self.process.wait(None)
        os.close(self._pidfd)
        self._pidfd = -1
        self._events.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._events.close()
