"""The process that forks a jailed machine, for one that may start no programs."""

from __future__ import annotations

import os
import posix
import select

from vmm.errors import ConfigError, HostError, VmmError
from vmm.faststart.builtin import socket
from vmm.faststart.thread import allocate_lock
from vmm.processes.helpers import PATIENCE_S, REQUEST_MAX, answered, leave_others, refusal_of
from vmm.virtio.vsock.path import unlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.config import MachineConfig
    from vmm.control.server import Child
    from vmm.processes.jailed import Jailed
    from vmm.processes.parent import Parent
    from vmm.processes.runner import Runner
    from vmm.virtio.vsock.path import Listening


class Forks:
    """A process that forks the machine on behalf of one that may start no programs: the machine's process writes the
    children's data, and this one starts them. It ends with its parent, and they end with it.

    :param machine: the socket at which the machine's process receives requests
    :param process: a pidfd of that
    :param listening: the machine's control socket, whose name is removed at the end, however its server ends
    :param jail: as of ``--jail``
    """

    def __init__(
        self, machine: socket.socket, process: int, config: MachineConfig, listening: Listening, jail: str
    ) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._lock = allocate_lock()
        if posix.fork() == 0:
            _Forking(theirs, machine, process, config, listening, jail).run()
        theirs.close()

    def fork(self, n: int, first: int) -> list[dict[str, str]]:
        """As :meth:`vmm.processes.jailed.Jailed.fork`."""
        import json

        with self._lock:
            try:
                self._sock.send(json.dumps([n, first]).encode(), socket.MSG_NOSIGNAL)
                data = self._sock.recv(REQUEST_MAX)
            except OSError:
                data = b""
        if not data:
            raise HostError("the process that makes forks has ended", code="fork-process")
        children: list[dict[str, str]] = answered(data)["children"]
        return children

    def close(self) -> None:
        """Request the end of its children and of itself, and wait a while."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it has ended
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.poll(PATIENCE_S * 1000)


class _Forking:
    """The process of a :class:`Forks`."""

    def __init__(
        self,
        sock: socket.socket,
        machine: socket.socket,
        process: int,
        config: MachineConfig,
        listening: Listening,
        jail: str,
    ) -> None:
        self._sock = sock
        self._machine = machine
        self._process = process
        self._config = config
        self._name = listening.give_name()
        self._jail = jail
        self._jailed: Jailed | None = None
        self._parent: Parent
        self._runner: Runner
        self._children: list[Child] = []

    def run(self) -> None:
        """Does not return."""
        from vmm.faststart.builtin import signal
        from vmm.processes.jail.restrict import restrict_helper

        status = 1
        try:
            leave_others({self._sock.fileno(), self._machine.fileno(), self._process}, b"pyvmm-forks")
            restrict_helper()
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            poll.poll()  # as with the server of the control socket: most machines never get a request
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                signal.signal(number, lambda _number, _frame: None)
            self._restrict()  # before anything that was sent is read
            while data := self._sock.recv(REQUEST_MAX):
                self._fork(data)
            status = 0
        finally:
            for child in self._children:
                child.stop()
            for child in self._children:
                child.close()
            unlink(*self._name)
            posix._exit(status)

    def _restrict(self) -> None:
        import fcntl
        import json
        import tempfile

        from vmm.control import server
        from vmm.open_files import allow_open_files
        from vmm.processes import isolated, jailed
        from vmm.processes.jail.restrict import restrict_forks
        from vmm.processes.parent import Parent
        from vmm.processes.runner import Runner
        from vmm.saving import disk_copies as files
        from vmm.saving import manifest, snapshot
        from vmm.virtio.blk import device

        assert fcntl and json and server and isolated and jailed and snapshot and files and manifest and device
        folders = [tempfile.gettempdir(), os.path.dirname(os.path.abspath(self._name[0]))]
        folders += [os.path.dirname(os.path.abspath(disk.overlay or disk.path)) for disk in self._config.disk_configs()]
        self._parent = Parent(self._config, self._name[0], self._jail)
        self._runner = Runner(self._parent)  # it shares the memory of all that
        allow_open_files()  # each child takes three descriptors
        restrict_forks(folders)

    def _fork(self, data: bytes) -> None:
        import json

        from vmm.lifecycle import refusal

        try:
            answer = json.dumps({"children": self._made(*fork_request(data))}).encode()
        except VmmError as error:
            answer = refusal_of(error)
        except OSError as error:
            answer = refusal_of(HostError(f"fork: {error.strerror}", code="host-limit", errno=error.errno or 0))
        except RuntimeError as error:
            if (refused := refusal(error)) is None:
                raise
            answer = refusal_of(refused)
        try:
            self._sock.send(answer, socket.MSG_NOSIGNAL)
        except OSError:
            pass  # nobody is there any more

    def _made(self, n: int, first: int) -> list[dict[str, str]]:
        from vmm.control.server import Child
        from vmm.lifecycle import CHILDREN_MAX, check_children
        from vmm.processes.isolated import IsolatedMachine
        from vmm.processes.jailed import Jailed

        made: list[IsolatedMachine] = []
        children: list[Child] = []
        if self._jailed is None:
            self._jailed = Jailed(self._machine, self._process, self._config)
        check_children(n)
        self._children = [each for each in self._children if each.lives]
        if len(self._children) + n > CHILDREN_MAX:
            raise ConfigError(
                f"a fork into {n} children beside {len(self._children)} that run",
                code="fork-children",
                hint=f"a jailed machine has {CHILDREN_MAX} at most: end some before",
            )
        point = self._jailed.fork_point(n)
        try:
            for number in range(first, first + n):
                own = self._config.own_devices(number)
                machine = IsolatedMachine.of_fork(point, own, start=False, number=number, run=self._runner.run)
                made.append(machine)
                children.append(Child(machine, self._parent.control(number)))
            for machine in made:
                machine.start()
        except BaseException:
            for machine in made:
                machine.close()
            raise
        finally:
            point.close()
        self._children += children
        return [each.where() for each in children]


def fork_request(data: bytes) -> tuple[int, int]:
    """The number of children, and the number of the first, as :meth:`Forks.fork` sends them.

    :raises ConfigError: these are not two numbers
    """
    import json

    try:
        asked = json.loads(data)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, list) or len(asked) != 2 or any(type(each) is not int or each < 0 for each in asked):
        raise ConfigError("an invalid request for forks", code="fork-request")
    return asked[0], asked[1]
