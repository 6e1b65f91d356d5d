"""The core as a process that the host controls by the agent's calls: a sandbox for containers, without a machine."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Protocol

from pyvmm_sentry.nursery import ELSEWHERE, HERE, NOTHING, Image, Nursery, is_complete
from pyvmm_sentry.share import Devices
from vmm import ConfigError, HostError, NetConfig, ShareConfig, VsockConfig

MIB = 1 << 20
ATTEMPT_S = 1.0
"""How long one attempt to connect takes at most: the core may have ended meanwhile."""
STOP_S = 30.0


class Controlled:
    """A running core.  The host connects to port 1024 of its socket device.

    :param platform: the program of the platform
    :param memory: bytes of RAM
    :param share: the directory that the agent mounts
    :param vsock: whose unix socket leads to the agent
    :param output: a descriptor for what the core itself prints
    :param network: an interface, which the agent configures
    :param strace: print every system call there
    :param before: called when all processes run, and before there is a thread
    :param image: a stopped core of the same memory and devices, which this one continues; used during this call only
    :param stops: it can be saved: the platform is trap
    :raises VmmError: a device cannot be served
    :raises HostError: the platform's program cannot be started
    """

    def __init__(
        self,
        platform: str,
        memory: int,
        share: ShareConfig | None,
        vsock: VsockConfig,
        output: int | None = None,
        before: Callable[[], None] = lambda: None,
        *,
        network: NetConfig | None = None,
        strace: bool = False,
        image: Image | None = None,
        stops: bool = False,
    ) -> None:
        self._replacing = threading.Lock()
        self._closed = False
        saved = image.saved if image else None
        below = image.below if image else -1
        self._devices = Devices(
            memory, share, network=network or False, vsock=vsock, start=False, saved=saved, copy=below < 0
        )
        words = ["--control", "--memory", str(memory // MIB), *(["--strace"] if strace else [])]
        try:
            self._starter = _Stopping(platform, words, output) if stops else _Lasting(platform, words, output)
        except BaseException:
            self._devices.close()
            raise
        try:
            variables = image.variables if image else -1
            self._process = self._starter.start(self._devices, variables, moved=True, below=below)
            self._devices.on_failure = lambda: self._process.kill()
            before()
            self._devices.start()
            self._process.go()
        except BaseException:
            self.close()
            raise

    _process: _Process
    _starter: _Starter

    @property
    def pid(self) -> int:
        """Of the core's process."""
        return self._process.pid

    def connect(self, port: int, timeout: float) -> socket.socket:
        """A connection to a port of the core.

        :raises TimeoutError: it does not accept in time
        :raises ConnectionRefusedError: it does not listen there, or has ended
        """
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                return self._devices.connect(port, max(0.1, min(left, ATTEMPT_S)))
            except TimeoutError:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    raise ConnectionRefusedError(f"the core has ended: {self.wait(0)}") from None
                if left < ATTEMPT_S:
                    raise

    def wait(self, timeout: float | None = None) -> str:
        """Wait until it has ended; returns how, as text.

        :raises subprocess.TimeoutExpired: it runs
        """
        while True:
            process = self._process
            status = process.wait(timeout)
            with self._replacing:
                if process is self._process:
                    return f"signal {-status}" if status < 0 else f"status {status}" if status else "poweroff"

    def watch(self, on_end: Callable[[str], None]) -> None:
        """Call *on_end* with how it has ended."""
        threading.Thread(target=lambda: on_end(self.wait()), name="sentry", daemon=True).start()

    def stats(self) -> dict[str, object]:
        """The counters of its devices, by name."""
        return self._devices.stats()

    def save(self, write: Callable[[Image], None]) -> None:
        """Stop the core, and continue it in a new process: connections of the host stay.

        :param write: called between the two with the image, which is valid meanwhile
        :raises VmmError: it cannot be stopped, or a device cannot be saved; it goes on, unless it has ended
        """
        with self._replacing:
            variables = self._starter.stop(self._process)
            try:
                try:
                    write(Image(self._devices.hold(), variables))
                finally:
                    # An error loses nothing: it goes on as it was
                    self._process = self._starter.start(self._devices, variables, moved=False)
                    self._devices.go_on()
                    self._process.go()
                    if self._closed:
                        self._process.kill()
            finally:
                os.close(variables)

    def close(self) -> None:
        """End it.  A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        process = getattr(self, "_process", None)
        if process is not None:
            process.kill()
            with self._replacing:
                self._process.kill()
                self._process.close()
        self._starter.close()
        self._devices.close()


class _Process(Protocol):
    """A core."""

    @property
    def pid(self) -> int: ...

    def go(self) -> None:
        """It waits for that."""

    def kill(self) -> None:
        """A process that has ended is left alone."""

    def wait(self, timeout: float | None = None) -> int:
        """How it has ended, as `Popen.returncode`.

        :raises subprocess.TimeoutExpired: it runs
        """

    def close(self) -> None:
        """After its end, which this waits for."""


class _Starter(Protocol):
    """Makes the processes of one core, one after the other."""

    def start(self, devices: Devices, variables: int, *, moved: bool, below: int = -1) -> _Process:
        """
        :param variables: of a stopped core, which this one continues; -1: it begins
        :param moved: with other devices than those that it was stopped with
        :param below: its RAM, which this one shares; -1: the devices have all of it
        :raises HostError: there is none
        """

    def stop(self, process: _Process) -> int:
        """Stop a core for good; returns a descriptor of its variables.

        :raises VmmError: it cannot be stopped
        """

    def close(self) -> None: ...


class _Lasting:
    """Starts the program itself: the core cannot be stopped."""

    def __init__(self, platform: str, words: list[str], output: int | None) -> None:
        self._words, self._output = [platform, *words], output

    def start(self, devices: Devices, variables: int, *, moved: bool, below: int = -1) -> _Process:
        """See :class:`_Starter`."""
        if variables >= 0:
            raise _cannot("continued")
        try:
            process = subprocess.Popen(
                [*self._words, *devices.options],
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=self._output,
                pass_fds=devices.fds,
                env={},
            )
        except OSError as error:
            raise HostError(f"{self._words[0]}: {error.strerror}", errno=error.errno or 0) from error
        return _Child(process)

    def stop(self, process: _Process) -> int:
        """See :class:`_Starter`."""
        raise _cannot("saved or copied")

    def close(self) -> None:
        """See :class:`_Starter`."""


def _cannot(what: str) -> ConfigError:
    return ConfigError(
        f"a sandbox on ptrace cannot be {what}",
        code="sentry-image",
        hint="one on trap can: pyvmm doctor reports why that does not work here",
    )


class _Child:
    """Of :class:`_Lasting`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def go(self) -> None:
        """It does not wait."""

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        return self._process.wait(timeout)

    def close(self) -> None:
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()


class _Stopping:
    """A nursery makes them: it starts before this process gives up the right to make any."""

    def __init__(self, platform: str, words: list[str], output: int | None) -> None:
        self._nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # nobody reads what a program reaches
        self._output = os.dup(self._nowhere if output is None else output)
        try:
            self._nursery = Nursery(platform, words, {})
        except BaseException:
            os.close(self._nowhere)
            os.close(self._output)
            raise

    def start(self, devices: Devices, variables: int, *, moved: bool, below: int = -1) -> _Process:
        """See :class:`_Starter`."""
        ours: list[int] = []
        theirs: list[int] = []
        try:
            for _ in ("input", "alive"):
                reader, writer = os.pipe2(os.O_CLOEXEC)
                theirs.append(reader)
                ours.append(writer)
            ours.append(os.memfd_create("sentry-image"))
            bits, places = devices.places
            entrance, alive = theirs
            streams = [entrance, self._output, self._output, alive]
            images = [fd for fd in (variables, below) if fd >= 0]
            continues = NOTHING if not images else ELSEWHERE if moved else HERE
            fds = [*streams, devices.ram, ours[-1], self._nowhere, *places, *images]
            pid = self._nursery.make(fds, bits, continues, below=below >= 0)
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        return _Born(pid, *ours)

    def stop(self, process: _Process) -> int:
        """See :class:`_Starter`."""
        assert isinstance(process, _Born)
        return process.stop()

    def close(self) -> None:
        """See :class:`_Starter`."""
        self._nursery.close()
        os.close(self._nowhere)
        os.close(self._output)


class _Born:
    """Of :class:`_Stopping`.

    :param entrance: its standard input
    :param alive: by which it begins, and whose end ends it
    :param image: where it saves its variables
    """

    def __init__(self, pid: int, entrance: int, alive: int, image: int) -> None:
        self.pid = pid
        self._fds = [entrance, alive, image]
        self._reaping = threading.Lock()
        self._status: int | None = None
        self._pidfd = os.pidfd_open(pid)
        self._fds.append(self._pidfd)

    def go(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended: waiting shows how
            os.write(self._fds[1], b"g")

    def _send(self, number: int) -> None:
        with self._reaping:
            if self._status is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired("sentry", timeout or 0)
        with self._reaping:
            if self._status is None:
                try:
                    self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                except ChildProcessError:  # this process ignores the ends of its children
                    self._status = 0
            return self._status

    def stop(self) -> int:
        """Stop it for good; its variables, as a descriptor.

        :raises HostError: it does not stop in time, or has ended
        """
        self._send(signal.SIGUSR1)
        try:
            self.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._send(signal.SIGUSR1)  # takes it back, unless it stops just now
            try:
                self.wait(1.0)
            except subprocess.TimeoutExpired:
                raise HostError(
                    f"the sandbox could not be stopped in {STOP_S:g} s",
                    code="sentry-stop",
                    hint="its programs must not use files all the time",
                ) from None
        if not is_complete(self._fds[2]):
            raise HostError("the sandbox has ended", code="sentry-stop")
        return os.dup(self._fds[2])

    def close(self) -> None:
        self.wait()

    def __del__(self) -> None:
        # A thread may still wait for the end of one that was stopped
        for fd in self._fds:
            os.close(fd)
