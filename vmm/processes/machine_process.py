"""``pyvmm isolated FD``: the process of a machine of the library with ``isolation="process"``; no command for users.

It ends with the process at the other end of the socket FD, from which it receives the configuration and requests.

``pyvmm isolated FD PARENT`` is a child of a jailed machine of the command line. PARENT is a sealed memfd that says what
the parent is, see :class:`vmm.processes.parent.Parent`: FD may be somebody's who has taken over the process that makes
forks, and says no more than which child it is.
"""

from __future__ import annotations

import gc
import json
import posix

from vmm.board.bootstrap import Bootstrap
from vmm.config import MachineConfig, config_kinds
from vmm.errors import ConfigError, HostError, VmmError, as_answer
from vmm.events import EventFd
from vmm.faststart.builtin import Empty, SimpleQueue, signal, socket
from vmm.faststart.record import replace
from vmm.lifecycle import DEVICE_LOST, EndEvent, Event
from vmm.machine.machine import Machine
from vmm.processes import outside as jail
from vmm.processes.answers import describe
from vmm.processes.helpers import leave_others, reserve_descriptors
from vmm.processes.jail_server import Requests
from vmm.processes.jailed import REQUEST_MAX
from vmm.processes.parent import Parent
from vmm.processes.spawn import PACKAGE
from vmm.processes.trim_memory import warm_wait
from vmm.saving.records import made
from vmm.saving.restore import Restored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from vmm.board.bootstrap import Origin

    Told = Event | EndEvent | str | None

_VALUES: dict[str, Any] = {"jail": "auto", "control": None, "terminal": False}
_SPACE = "space"
_SETTLED_S = 1.0
"""After a start without an event a machine is taken to have settled."""


_TIDY_S = 2.0
"""Between two times that memory is given back."""


class _Events:
    """What is still to be reported, in its order. Any thread may call :meth:`put`."""

    def __init__(self) -> None:
        self._told: SimpleQueue[Told] = SimpleQueue()
        self._came = EventFd()
        self._waits_idle = False
        self._untidy = False

    def put(self, event: Told) -> None:
        """Add one."""
        self._told.put(event)
        if self._waits_idle:
            self._came.signal()

    def tidy(self) -> None:
        """Another thread has run: give back the memory that it has used, in a while."""
        if self._waits_idle and not self._untidy:
            self._untidy = True
            self._came.signal()

    def next(self) -> Told:
        """Wait for one; in the memory of a process that is idle, if it takes long."""
        try:
            return self._told.get(timeout=_SETTLED_S)
        except Empty:
            pass
        self._waits_idle = True
        while self._told.empty():
            warm_wait(self._came.fd)
            self._came.clear()
            if self._untidy:
                try:
                    return self._told.get(timeout=_TIDY_S)
                except Empty:
                    self._untidy = False
        return self._told.get()


class _Asked(Requests):
    """Serves requests in the process that has the machine; its end is an item of *told*, as events are."""

    def __init__(self, sock: socket.socket, told: _Events) -> None:
        super().__init__(sock)
        self._told = told

    def _take(self) -> None:
        super()._take()
        self._told.put(None)

    def begin(self) -> tuple[dict[str, Any], list[int]]:
        """The configuration, and the descriptors that come with it: for the answer, for events, and a console's."""
        taken = self.take(REQUEST_MAX)
        if taken is None:
            raise SystemExit(0)
        try:
            request = json.loads(taken[0])
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or len(taken[1]) < 2:
            raise ConfigError("an invalid request for a machine", code="isolation")
        return request, taken[1]

    def until_start(self, machine: Machine) -> int:
        """Serve requests until one starts the machine; returns the descriptor for its answer, or -1 if none came."""
        self._machine = machine
        while taken := self.take():
            data, fds = taken
            if json.loads(data)["command"] == "start":
                return fds[0]
            self._do(data, fds)
        return -1


def main(argv: list[str]) -> int:
    """Run that process; returns its exit status."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    try:
        sock = socket.socket(fileno=int(argv[0]))
        sock.getpeername()
    except (IndexError, ValueError, OSError):
        raise ConfigError("pyvmm isolated: not for users", code="isolation", hint="see pyvmm boot --help") from None
    told = _Events()
    asked = _Asked(sock, told)
    parent = None if len(argv) < 2 else Parent.read(int(argv[1]))
    request, (answer, events, *fds) = asked.begin()
    values = dict(_VALUES)
    try:
        if parent is not None:
            request = parent.child(request, fds)
            values |= parent.serves(request["number"])
            values["until"] = posix.pidfd_open(posix.getppid())
        given, config, origin = _wanted(request, fds)
        with jail.Outside(given, values) as outside, Machine.of_origin(origin, config, start=False) as machine:
            _tell(answer, {"ok": {}})
            posix.close(answer)
            answer = asked.until_start(machine)
            if answer < 0:
                return 0
            machine.listen(told.put)
            machine.loop.rested = told.tidy
            machine.console.space_callback = lambda: told.put(_SPACE)
            restore = request["restore"] or {"options": {}}
            values["prefetch"] = bool(restore["options"].get("prefetch"))
            _start(machine, asked, outside, answer, values)
            answer = -1
            while (event := told.next()) is not None:
                if event == _SPACE:
                    _tell(events, {_SPACE: True})
                elif isinstance(event, EndEvent):
                    _tell(events, {"end": event.kind, "detail": event.detail, "error": describe(event.error)})
                elif isinstance(event, Event) and event.kind == DEVICE_LOST:
                    _tell(events, {"lost": event.detail})
    except VmmError as error:
        if answer < 0:
            raise
        _tell_error(answer, error)
    finally:
        asked.close()  # if another process serves the control socket, this one does not
    return 0


def be_forked(fd: int, kept: set[int]) -> NoReturn:
    """Run that process, in a fork of the caller.

    :param kept: descriptors that stay open
    """
    status = 1
    try:
        # What the caller has in its memory would close, when it goes, descriptors of others by then
        gc.disable()
        gc.freeze()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        leave_others(kept, b"pyvmm-machine")
        reserve_descriptors(kept)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        status = main([str(fd)])
    finally:
        posix._exit(status)


def _wanted(request: dict[str, Any], fds: list[int]) -> tuple[MachineConfig, MachineConfig, Origin]:
    """The configuration as given, that of the machine to be made, which may have other paths, and its origin."""
    if request["package"] != PACKAGE:
        raise HostError(
            f"the program pyvmm is of {PACKAGE}, and this process imports {request['package']}",
            code="isolation-process",
            hint="use the Python of the environment that pyvmm is installed in",
        )
    kinds = config_kinds()
    config: MachineConfig = made(request["config"], "MachineConfig", kinds, "the configuration")
    if any(device.many_files for device in config.device_configs()):
        from vmm.open_files import allow_open_files

        allow_open_files()
    forked = request["fork"]
    given = [] if forked is None else fds[-forked["files"] :]
    if len(given) < len(fds):
        config = replace(config, console=replace(config.console, fd=fds[0]))
    restore = request["restore"]
    if forked is not None:
        from vmm.saving.fork import GivenChild

        child = GivenChild(config, forked, given)
        return config, child.config, child
    if restore is None:
        return config, config, Bootstrap(config)
    types = {**MachineConfig.__record_types__, "shares": "tuple[ShareConfig, ...] | dict[str, str]"}  # type: ignore[attr-defined]
    changes = {name: made(each, types[name], kinds, name) for name, each in restore["changes"].items()}
    origin = Restored(restore["path"], {**changes, "console": config.console}, **restore["options"])
    if origin.records:
        origin.close()
        raise ConfigError(
            "prefetch: the first clone writes into the snapshot, which a jailed machine cannot",
            code="isolation",
            hint='restore it once with isolation="thread" and prefetch',
        )
    return origin.config, origin.config, origin


def _start(machine: Machine, asked: _Asked, outside: jail.Outside, answer: int, values: dict[str, Any]) -> None:
    """Run the guest, in a jail, and serve requests from now on."""
    standing: dict[str, Any] = {}
    jail.import_the_rest(as_json=True, stats=False)
    gc.freeze()
    gc.enable()
    control = outside.control
    if control is None:
        outside.control = asked
        asked.takes_disks = machine.config.has_pci()
        asked.takes_shares = asked.takes_disks and machine.config.shares_memory()

    def ready() -> None:
        walls = jail.enter(machine, values, outside)
        standing.update(walls=walls.names(), missing=walls.missing)

    try:
        machine.start(ready, confined=True)
    except VmmError as error:
        _tell_error(answer, error)
    else:
        if control is not None:
            control.start()
        _tell(answer, {"ok": standing})
        asked.start()
    posix.close(answer)


def _tell_error(fd: int, error: VmmError) -> None:
    _tell(fd, as_answer(error))


def _tell(fd: int, what: dict[str, Any]) -> None:
    try:
        posix.write(fd, json.dumps(what).encode())  # one message
    except OSError:
        pass  # nobody is there any more, and nothing more will be asked for
