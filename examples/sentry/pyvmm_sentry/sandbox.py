"""A program in a sandbox, whose system calls Python functions decide.

>>> import errno
>>> from pyvmm_sentry import SentrySandbox
>>> with SentrySandbox("/", ["ls", "/etc"]) as sandbox:  # doctest: +SKIP
...     @sandbox.on("open")
...     def decide(event):
...         return errno.EACCES if event.path.startswith("/etc") else None
...     print(sandbox.run().stderr.decode())
"""

from __future__ import annotations

import enum
import errno
import functools
import os
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, overload

from pyvmm_sentry import events, hooks, platforms, program
from pyvmm_sentry.boot import Start
from pyvmm_sentry.cores import Core, ProgramNursery, Setting
from pyvmm_sentry.events import Event, Header
from pyvmm_sentry.forks import PREPARED, CoreTemplate, MachineTemplate, Template, check_prepared
from pyvmm_sentry.guest import Guest
from pyvmm_sentry.share import Devices
from pyvmm_sentry.streams import ProgramTimeout, Streams, deadline_in
from vmm import ConfigError, HostError, VsockConfig

MIB = 1 << 20
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TIMEOUT_S = 10.0
EVENTS_MOST = 8 << 20
"""Bytes of trace points that wait for :meth:`SentrySandbox.events`."""
FILES_MOST = 64
_CONNECT_S = 30.0
_CALL, _LISTENS = 0, 1
"""`enum point` of `core/platform.h`."""
_NO_FORKS = "use the platform kvm or trap"

Hook = Callable[[Event], int | None]
Function = TypeVar("Function", bound=Hook)


class Result(NamedTuple):
    """How a program has ended.

    :ivar status: its exit status; below 0: the signal that ended it
    :ivar stdout: what it has printed
    :ivar stderr: the same of its errors
    """

    status: int
    stdout: bytes
    stderr: bytes


class Until(enum.Enum):
    """A point of a program, for :meth:`SentrySandbox.run`."""

    CALL = "written to /dev/pyvmm"


class Process(NamedTuple):
    """A process in the sandbox.

    :ivar state: R: it runs or sleeps; T: it is stopped; Z: it has ended
    """

    pid: int
    parent: int
    state: str
    threads: int
    name: str


class _Files(dict[str, Callable[[], bytes]]):
    """Files that functions serve, by absolute path."""

    refused: tuple[str, str] | None = None
    """Why there can be no more of them, and what to do instead."""

    def __setitem__(self, path: str, content: Callable[[], bytes]) -> None:
        if self.refused:
            raise ConfigError(f"files[{path!r}]: {self.refused[0]}", hint=self.refused[1])
        if not path.startswith("/") or os.path.normpath(path) != path or path == "/" or "\0" in path:
            raise ConfigError(f"files[{path!r}]: not an absolute path of a file")
        if len(self) >= FILES_MOST:
            raise ConfigError(f"files[{path!r}]: {FILES_MOST} files are the most")
        super().__setitem__(path, content)


class SentrySandbox:
    """A program in a sandbox of its own.

    :param root: a directory of the host as the root; changes stay in the sandbox's memory
    :param argv: the program and its arguments
    :param platform: kvm, trap or ptrace; ptrace has no forks. auto: the first of trap and ptrace that works here, or
        the first of kvm and trap for ``run(until=...)``
    :param env: the environment
    :param memory: MiB
    :param pids: processes and threads at once
    :param network: connect to the host's networks, through passt
    :param timeout: seconds after which a hook that has not answered refuses the call
    :ivar files: by path, functions that return the bytes of a file each time a program opens it
    :raises ConfigError: the program is not in the root, or there is no such platform
    :raises HostError: the platform does not work here
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        argv: Sequence[str],
        *,
        platform: str = "auto",
        env: Mapping[str, str] | None = None,
        memory: int = 256,
        pids: int = 1024,
        network: bool = False,
        timeout: float = TIMEOUT_S,
    ) -> None:
        self._root = os.fspath(root)
        self._env = {"PATH": PATH, **(env or {})}
        self._argv = [_find(self._root, argv, self._env["PATH"]), *argv[1:]]
        self._platform, self._is_auto = _choose(platform), platform == "auto"
        self._memory, self._pids, self._network, self._timeout = memory, pids, network, timeout
        self._hooks: dict[int, list[Hook]] = {}
        self._traced: frozenset[int] = frozenset()
        self._records: deque[bytes] = deque()
        self._record_bytes = self._lost = 0
        self._changed = threading.Condition()
        self._ended = False
        self._devices: Devices | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: hooks.Connection | None = None
        self._alive: tuple[int, ...] = ()
        self._guest: Streams | None = None
        self._nursery: ProgramNursery | None = None
        self._template: Template | None = None
        self.files = _Files()

    # -- hooks -------------------------------------------------------------------------------------------------------

    def on(self, *calls: str) -> Callable[[Function], Function]:
        """Decide system calls: the decorated function is called before each, in a thread.

        It returns None to allow the call, or an errno.  If it raises, or takes too long, the call fails with EPERM.

        :param calls: names of system calls; `open`, `execve`, `unlink` and others stand for all of their kind
        :raises ConfigError: there is no such call
        """
        numbers = [number for call in calls for number in _numbers(call)]

        def add(hook: Function) -> Function:
            for number in numbers:
                self._hooks.setdefault(number, []).append(hook)
            self._watch()
            return hook

        return add

    def events(self, *calls: str) -> Iterator[Event]:
        """Record system calls from now on, and iterate over them until the sandbox ends.

        If too many wait, the newest are lost: :attr:`dropped` counts them.

        :param calls: their names, as of :meth:`on`; none: all
        :raises ConfigError: there is no such call
        """
        numbers = [number for call in calls for number in _numbers(call)]
        self._traced |= frozenset(numbers or range(events.NUMBERS))
        self._watch()
        return self._take_events()

    @property
    def dropped(self) -> int:
        """How many trace points were lost, because too many waited."""
        return self._lost + (self._connection.dropped if self._connection else 0)

    def _watch(self) -> None:
        if self._connection is None:
            return
        bits = bytearray(events.NUMBERS)
        for number in self._hooks:
            bits[number] |= hooks.DECIDE
        for number in self._traced:
            bits[number] |= hooks.TRACE
        self._connection.watch(bytes(bits), self._timeout)

    def _decide(self, event: Event) -> tuple[int, bytes]:
        for hook in self._hooks.get(event.number, ()):
            try:
                verdict = hook(event)
                if verdict:
                    return -int(verdict), b""
            except Exception:
                print(f"pyvmm-sentry: a hook has refused {event.call}, as it failed:", file=sys.stderr)
                traceback.print_exc()
                return -errno.EPERM, b""
        if event.replacement is None:
            return 0, b""
        return event.path_index, os.fsencode(event.replacement)

    def _content(self, number: int) -> bytes:
        try:
            data = list(self.files.values())[number]()
            if len(data) <= hooks.CONTENT_MOST:
                return bytes(data)
            print(f"pyvmm-sentry: a file of {len(data)} bytes is too large", file=sys.stderr)
        except OSError:
            raise
        except Exception:
            traceback.print_exc()
        raise OSError(errno.EIO, "its function failed")

    def _trace(self, record: bytes) -> None:
        with self._changed:
            if self._record_bytes + len(record) > EVENTS_MOST:
                self._lost += 1
                return
            self._records.append(record)
            self._record_bytes += len(record)
            self._changed.notify_all()

    def _take_events(self) -> Iterator[Event]:
        while True:
            with self._changed:
                while not self._records and not self._ended:
                    self._changed.wait()
                if not self._records:
                    return
                record = self._records.popleft()
                self._record_bytes -= len(record)
            yield Event(record)

    # -- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the program.

        :raises ConfigError: it was started before, or a file cannot be served
        :raises VmmError: the sandbox cannot be made
        """
        if self._process or self._guest:
            raise ConfigError("the sandbox was started before", hint="make another one")
        self.files.refused = self.files.refused or ("the sandbox runs", "add files before its start")
        try:
            if self._platform == "kvm":
                self._start_machine(with_hooks=True).end_input()
            else:
                self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        with tempfile.TemporaryDirectory(prefix="pyvmm-sentry-") as folder:
            vsock = VsockConfig(3, os.path.join(folder, "vsock"), connections=4)
            self._devices = devices = Devices(
                self._memory * MIB, self._root, read_only=True, network=self._network, vsock=vsock, start=False
            )
            self._process = process = self._spawn(devices)
            devices.on_failure = process.kill
            devices.start()
            sock = devices.connect(hooks.PORT, _CONNECT_S)
        self._begin(sock, process.wait)

    def _begin(self, sock: socket.socket, await_end: Callable[[], object]) -> None:
        """The core has connected: the program starts with its hooks and files."""
        sock.settimeout(None)
        self._connection = connection = hooks.Connection(sock, self._decide, self._content, self._trace, self._end)
        self._watch()
        for number, path in enumerate(self.files):
            try:
                connection.serve(number, os.fsencode(path))
            except OSError as error:
                raise ConfigError(f"files[{path!r}]: {os.strerror(error.errno or 0)}") from error
        connection.start()

        def finish() -> None:
            await_end()
            connection.finish()

        threading.Thread(target=finish, name="sentry-end", daemon=True).start()

    def _start_guest(self) -> Streams:
        """A program that can be stopped, on kvm or trap: its standard input is open."""
        if self._platform == "trap":
            self._nursery = ProgramNursery(
                Setting(self._root, self._argv, self._env, self._memory, self._pids, self._network)
            )
            self._guest = core = Core(self._nursery)
            return core.go()
        return self._start_machine(with_hooks=self._has_hooks)

    def _start_machine(self, *, with_hooks: bool) -> Guest:
        """On kvm: its standard input is open."""
        start = Start(
            self._argv[0],
            self._argv,
            self._env,
            self._memory,
            self._pids,
            self._root,
            scratch=True,
            network=self._network,
        )
        if not with_hooks:
            self._guest = Guest.boot(start)
            return self._guest
        with tempfile.TemporaryDirectory(prefix="pyvmm-sentry-") as folder:
            self._guest = guest = Guest.boot(start._replace(hooks=os.path.join(folder, "vsock")))
            sock = guest.connect(hooks.PORT, _CONNECT_S)
        self._begin(sock, guest.await_end)
        return guest

    def _spawn(self, devices: Devices) -> subprocess.Popen[bytes]:
        binary = str(program.trap() if self._platform == "trap" else program.ptrace())
        self._alive = (reader, _) = os.pipe()  # whose end ends the core, when this process is killed
        options = devices.options
        options[options.index("--share") + 1] += f",{reader},{reader}"
        words = [binary, "--hooks", "--scratch", "--memory", str(self._memory), "--pids", str(self._pids), *options]
        try:
            return subprocess.Popen(
                [*words, "--", *self._argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(*devices.fds, reader),
                env=self._env,
            )
        except OSError as error:
            raise HostError(f"{binary}: {error.strerror}", errno=error.errno or 0) from error

    def wait(self, timeout: float | None = None) -> Result:
        """Wait until the program has ended.

        :raises ConfigError: it was not started
        :raises subprocess.TimeoutExpired: it runs
        """
        if self._guest:
            return self._wait_for_guest(self._guest, timeout)
        if not self._process:
            raise ConfigError("the sandbox was not started")
        stdout, stderr = self._process.communicate(timeout=timeout)
        self._end()
        return Result(self._process.returncode, stdout, stderr)

    def _wait_for_guest(self, guest: Streams, timeout: float | None) -> Result:
        if self._template:
            raise ConfigError("the program was stopped by freeze()", hint="fork the template")
        try:
            status = guest.wait(deadline_in(timeout))
        except ProgramTimeout:
            raise subprocess.TimeoutExpired(self._argv, timeout or 0) from None
        return Result(status, bytes(guest.stdout), bytes(guest.stderr))

    @overload
    def run(self, timeout: float | None = None) -> Result: ...

    @overload
    def run(self, timeout: float | None = None, *, until: str | int | Until) -> Self: ...

    def run(self, timeout: float | None = None, *, until: str | int | Until | None = None) -> Result | Self:
        """Start the program, and wait until it has ended.

        :param until: or until it writes this line to standard output, listens on this TCP port, or writes to
            `/dev/pyvmm` (:attr:`Until.CALL`): returns this sandbox, for :meth:`freeze`. The program goes on meanwhile
        :raises subprocess.TimeoutExpired: it runs
        :raises ConfigError: *until* needs the platform kvm or trap, and no hooks
        :raises ProgramError: it has ended without that
        :raises ProgramTimeout: it has not done that in time
        """
        if until is None:
            self.start()
            return self.wait(timeout)
        if self._process or self._guest:
            raise ConfigError("the sandbox was started before", hint="make another one")
        _check_until(until)
        self._choose_forks("run(until=...)")
        self.files.refused = self.files.refused or ("the sandbox runs", "add files before its start")
        try:
            _wait(self._start_guest(), until, deadline_in(timeout))
        except BaseException:
            self.close()
            raise
        return self

    def _choose_forks(self, what: str) -> None:
        if self._is_auto:
            kvm, trap = platforms.kvm(), platforms.trap()
            if not kvm.present and not trap.present:
                raise ConfigError(f"{what} needs the platform kvm or trap: {trap.detail}", hint=trap.hint or _NO_FORKS)
            self._platform = "kvm" if kvm.present else "trap"
        if self._platform == "ptrace":
            raise ConfigError(f"{what} needs the platform kvm or trap, not ptrace", hint=_NO_FORKS)
        if self._platform == "trap" and self._has_hooks:
            raise ConfigError(f"{what}: with hooks, events or files of functions, a sandbox cannot be stopped on trap")

    @property
    def _has_hooks(self) -> bool:
        return bool(self._hooks or self._traced or self.files)

    def freeze(self, *, prepared: int = PREPARED) -> Template:
        """Stop the program where it is, for good; returns what forks it.  The template closes this sandbox.

        :param prepared: children that are made in advance, on a thread, and wait, 0 to 64: a fork then takes a fraction
            of the time
        :raises ConfigError: the platform is ptrace, the program does not run, or it has hooks: Python answers one core
        :raises ProgramError: the program has ended
        :raises VmmError: it cannot be forked
        """
        if self._platform == "ptrace":
            raise ConfigError("freeze() needs the platform kvm or trap, not ptrace", hint=_NO_FORKS)
        if not self._guest or self._template:
            raise ConfigError("freeze(): the program does not run", hint='run(until="ready") starts it')
        if self._connection:
            raise ConfigError("freeze(): the program has hooks, events or files of functions", hint="use none of them")
        check_prepared(prepared)
        if isinstance(self._guest, Guest):
            self._template = MachineTemplate(self._guest, network=self._network, prepared=prepared)
        else:
            assert self._nursery and isinstance(self._guest, Core)
            self._template = CoreTemplate(self._nursery, self._guest.stop(), prepared=prepared, owner=True)
        return self._template

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def processes(self) -> list[Process]:
        """What runs in the sandbox.

        :raises HostError: it has ended
        """
        _, data = self._status()
        lines = data[events.RECORD.size :].decode(errors="replace").split("\0")[:-1]
        found = [line.split(" ", 4) for line in lines]
        return [Process(int(pid), int(parent), state, int(count), name) for pid, parent, state, count, name in found]

    def stats(self) -> dict[str, Any]:
        """Memory in bytes, CPU time in seconds, and counts; `exchanges` of questions to hooks and files; `share`: the
        counters of the root's server.

        :raises HostError: it has ended
        """
        head, _ = self._status()
        names = ("memory_used", "memory_limit", "processes", "threads")
        assert self._connection
        share = self._guest.share_stats() if isinstance(self._guest, Guest) else {}
        return {
            **dict(zip(names, head.args, strict=False)),
            "cpu_seconds": head.args[4] / 1e9,
            "dropped": self.dropped,
            "exchanges": self._connection.exchanges,
            "share": self._devices.stats() if self._devices else share,
        }

    @property
    def exchanges(self) -> int:
        """How often the core has asked a hook or a file's function."""
        return self._connection.exchanges if self._connection else 0

    def _status(self) -> tuple[Header, bytes]:
        if not self._connection:
            raise HostError("the sandbox was not started", hint="run(until=...) without a hook has no such connection")
        return self._connection.status()

    def close(self) -> None:
        """End the sandbox, and a template of it.  A second call does nothing."""
        if self._template:
            self._template.close()
        if self._guest:
            self._guest.close()
        if self._nursery:
            self._nursery.close()
        if self._process:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            for stream in (self._process.stdout, self._process.stderr):
                if stream:
                    stream.close()
        if self._connection:
            self._connection.close()
        if self._devices:
            self._devices.close()
        for fd in self._alive:
            os.close(fd)
        self._alive = ()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback_: TracebackType | None
    ) -> None:
        self.close()


def _check_until(until: str | int | Until) -> None:
    if isinstance(until, str) and "\n" in until:
        raise ConfigError(f"until={until!r}: not one line")
    if isinstance(until, int) and (isinstance(until, bool) or not 0 < until < 1 << 16):
        raise ConfigError(f"until={until!r}: not a port", hint="1 to 65535")


def _wait(guest: Streams, until: str | int | Until, deadline: float | None) -> None:
    if isinstance(until, str):
        guest.wait_for_line(until, deadline)
    elif isinstance(until, int):
        guest.wait_for_point(_LISTENS, until, f"listened on port {until}", deadline)
    else:
        guest.wait_for_point(_CALL, 0, until.value, deadline)


def _numbers(call: str) -> tuple[int, ...]:
    found = events.numbers(call)
    if not found:
        raise ConfigError(f"{call}: there is no such system call", hint="pyvmm-runsc help syscalls lists them")
    return found


@functools.cache
def _best() -> str:
    """The first platform that works here.  Each is tried by a child."""
    for found in (platforms.trap(), platforms.ptrace()):
        if found.present:
            return found.name
    raise HostError("neither trap nor ptrace works here", hint="pyvmm-runsc platforms")


def _choose(name: str) -> str:
    if name not in ("auto", *platforms.NAMES):
        raise ConfigError(f"platform {name!r}: not auto, {', '.join(platforms.NAMES[:-1])} or {platforms.NAMES[-1]}")
    if name == "kvm":
        found = platforms.kvm()
        if not found.present:
            raise HostError(f"the platform kvm does not work here: {found.detail}", hint=found.hint)
    return _best() if name == "auto" else name


def _find(root: str, argv: Sequence[str], search: str) -> str:
    """The path of a program inside of *root*."""
    if not argv:
        raise ConfigError("argv is empty: there is no program")
    if not os.path.isdir(root):
        raise ConfigError(f"root {root}: not a directory")
    name = argv[0]
    for place in [""] if "/" in name else search.split(":"):
        path = os.path.join(place, name)
        if os.path.lexists(f"{root}/{path}"):
            return path
    raise ConfigError(f"{name}: not found in {root}")
