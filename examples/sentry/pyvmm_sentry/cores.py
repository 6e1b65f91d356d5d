"""Cores as processes of the host that can be stopped and continued: the platform trap.

:mod:`pyvmm_sentry.nursery` makes the processes.  Each that continues a stopped core has copies of its RAM and its
variables, and new processes for programs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from pyvmm_sentry import program
from pyvmm_sentry.nursery import ELSEWHERE, NOTHING, Image, Nursery, is_complete
from pyvmm_sentry.share import Devices
from pyvmm_sentry.streams import POINTS, ProgramError, ProgramTimeout, Streams, closed_error, deadline_in, left
from vmm import HostError, VmmError

MIB = 1 << 20
STOP_S = 30.0
_PIECE = 64 << 10


class Setting(NamedTuple):
    """What all cores of a nursery have in common.

    :ivar memory: MiB
    """

    root: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    memory: int
    pids: int
    network: bool


class ProgramNursery(Nursery):
    """Makes processes for cores that run one program."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        words = ["--scratch", "--memory", str(setting.memory), "--pids", str(setting.pids), "--", *setting.argv]
        super().__init__(str(program.trap()), words, setting.environment)


class Core(Streams):
    """A process with a core.  It waits for :meth:`go`.  Any thread may call this.

    :param image: what it continues; None: it starts the program
    :param most: bytes of standard error to keep; None: all
    :raises VmmError: it cannot be made
    """

    def __init__(self, nursery: ProgramNursery, image: Image | None = None, *, most: int | None = None) -> None:
        super().__init__(most)
        self._closing = threading.Lock()
        self._closed = self._full = False
        self._pid = self._pidfd = self._image = -1
        self._status: int | None = None
        self._fds: list[int] = []
        self._devices: Devices | None = None
        try:
            self._make(nursery, image)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, VmmError):
                raise HostError(f"a process cannot be made: {error.strerror}", errno=error.errno or 0) from error
            raise

    def _make(self, nursery: ProgramNursery, image: Image | None) -> None:
        setting, saved = nursery.setting, image.saved if image else None
        self._wake = self._keep(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._devices = devices = Devices(
            setting.memory * MIB,
            setting.root,
            read_only=True,
            network=setting.network,
            start=False,
            saved=saved,
            copy=False,
        )
        self._image = os.memfd_create("sentry-image")
        theirs: list[int] = []
        try:
            for name in ("_input", "_output", "_errors", "_alive", "_reached"):
                ours, other = self._pipe(name in ("_output", "_errors", "_reached"))
                setattr(self, name, ours)
                theirs.append(other)
            os.set_blocking(theirs[-1], False)
            bits, places = devices.places
            images = [image.variables, image.below] if image else []
            fds = [*theirs[:-1], devices.ram, self._image, theirs[-1], *places, *images]
            self._pid = nursery.make(fds, bits, ELSEWHERE if image else NOTHING, below=image is not None)
        finally:
            for fd in theirs:
                os.close(fd)
        self._pidfd = self._keep(os.pidfd_open(self._pid))
        devices.on_failure = self._kill
        devices.start()

    _input: int
    _output: int
    _errors: int
    _alive: int
    _reached: int

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _pipe(self, reads: bool) -> tuple[int, int]:
        """This process's end, which does not block, and the core's."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        ours, other = (reader, writer) if reads else (writer, reader)
        os.set_blocking(ours, False)
        return self._keep(ours), other

    def go(self) -> Self:
        """Run the program."""
        with contextlib.suppress(BrokenPipeError):  # it has ended: reading shows why
            os.write(self._alive, b"g")
        return self

    # -- streams -----------------------------------------------------------------------------------------------------

    def end_input(self) -> None:
        """The program reads the end of its standard input."""
        with self._closing:
            if self._input in self._fds:
                self._fds.remove(self._input)
                os.close(self._input)

    def _send(self, data: bytes) -> int:
        self._check()
        self._full = False
        try:
            return os.write(self._input, data)
        except BlockingIOError:
            self._full = True
        except BrokenPipeError:
            pass  # reading shows why
        return 0

    def _check(self) -> None:
        if self._closed:
            raise closed_error()

    def _step(self, deadline: float | None) -> bool:
        self._check()
        rest = left(deadline, bytes(self.stderr))
        poll = select.poll()
        for fd in (self._output, self._errors, self._reached):
            if fd in self._fds:
                poll.register(fd, select.POLLIN)
        if self._full:
            poll.register(self._input, select.POLLOUT)
        poll.register(self._wake, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        found = {fd for fd, _ in poll.poll(None if rest is None else rest * 1000)}
        self._check()
        read = [fd for fd in (self._output, self._errors, self._reached) if fd in found and self._read(fd)]
        if not read and self._pidfd in found:
            self._reap()
            return False
        return True

    def _read(self, fd: int) -> bool:
        data = os.read(fd, _PIECE)
        self._put({self._output: 1, self._errors: 2}.get(fd, POINTS), data)
        if not data:
            self._fds.remove(fd)
            os.close(fd)
        return bool(data)

    def _reap(self) -> None:
        """After its end."""
        with self._closing:
            if self._pid > 0:
                try:
                    self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
                except ChildProcessError:
                    self._status = None  # this process ignores the ends of its children
                self._pid = -1

    def _result(self) -> int | None:
        return self._status

    def _ended(self) -> ProgramError:
        status = self._status
        if status is None:
            text = "the program has ended"
        else:
            text = f"the program was ended by signal {-status}" if status < 0 else f"the program exited with {status}"
        return ProgramError(text, status=status, stderr=bytes(self.stderr))

    # -- its life ----------------------------------------------------------------------------------------------------

    def stop(self) -> Image:
        """Stop the core for good; returns what continues it.

        :raises ProgramError: the program has ended
        :raises ProgramTimeout: it uses files of the host all the time
        :raises ConfigError: it was closed
        :raises VmmError: a device cannot be saved
        """
        with self._reading:
            self._check()
            with self._closing:
                if self._pid > 0:
                    os.kill(self._pid, signal.SIGUSR1)
            self._await_stop()
            if not is_complete(self._image):
                raise self._ended()
            assert self._devices
            saved = self._devices.save()
            try:
                below = os.open(f"/proc/self/fd/{saved.ram}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                os.close(saved.ram)
                raise HostError(f"a program cannot be stopped: {error.strerror}", errno=error.errno or 0) from error
            image = Image(saved, self._image, below=below)
            self._image = -1
        self.close()
        return image

    def _await_stop(self) -> None:
        deadline = deadline_in(STOP_S)
        try:
            while self._step(deadline):
                pass
        except ProgramTimeout:
            raise ProgramTimeout(
                f"the program could not be stopped in {STOP_S:g} s", hint="it must not use files all the time"
            ) from None

    def _kill(self) -> None:
        with self._closing:
            if self._pid > 0:
                os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process and its devices.  A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._kill()
        if self._pid > 0:
            self._reap()
        if self._fds:
            os.eventfd_write(self._wake, 1)
        with self._reading:  # a thread that reads has noticed it
            for fd in self._fds:
                os.close(fd)
            self._fds.clear()
            if self._image >= 0:
                os.close(self._image)
                self._image = -1
        if self._devices:
            self._devices.close()
