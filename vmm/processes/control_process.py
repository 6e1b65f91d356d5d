"""The process outside of the jail that serves a jailed machine's control socket."""

from __future__ import annotations

import posix
import select
import struct

from vmm.errors import HostError
from vmm.faststart.builtin import socket
from vmm.processes.forks import Forks
from vmm.processes.helpers import leave_others, wait_for
from vmm.processes.jail_server import Requests
from vmm.processes.share_starter import Starter
from vmm.virtio.vsock.path import STREAM, listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.config import MachineConfig
    from vmm.machine.machine import Machine
    from vmm.virtio.image import Below
    from vmm.virtio.vsock.path import Listening

_CAPABILITIES = ("dac_override", "dac_read_search", "fowner", "kill")
"""Capabilities of the process: it writes snapshots in any directory, and kills a machine that does not answer."""
_GO = struct.Struct("=I")
"""The message with which the server begins: the user of the machine's process, or 0."""
_END_S = 10
"""Seconds that a machine may take to end after its starter has ended."""


class ControlProcess(Requests):
    """A process outside of the jail that serves the control socket of a jailed machine.

    It is forked before the machine is made, so it has no part of the machine. The machine's process does not have the
    control socket, and does not see the clients' requests: it receives commands, and the descriptors of the files to
    write. Each of the two processes ends with the other.

    :param config: the machine's configuration
    :param path: the path of the control socket
    :param below: directories from which disks may be plugged in, or None; closed here
    :param shares: the same for directories of shares
    :param jail: the value of ``--jail``, for children of the machine
    :param until: a pidfd, closed here: when that process has ended, the machine ends too, or is killed; -1: none
    :ivar pid: the process id of the process that serves it
    :raises ConfigError: the socket cannot be made
    :raises HostError: fork(2) failed
    """

    def __init__(
        self,
        config: MachineConfig,
        path: str,
        below: Below | None = None,
        shares: Below | None = None,
        *,
        jail: str = "auto",
        until: int = -1,
    ) -> None:
        listening = listen(path, STREAM)
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            machine = posix.pidfd_open(posix.getpid())
            self.pid = posix.fork()
        except OSError as error:
            listening.close()
            raise HostError(f"control: {error.strerror}", code="control-process", errno=error.errno or 0) from error
        if self.pid == 0:
            _serve_outside(theirs, machine, listening, config, below, shares, jail, until)
        posix.close(machine)
        if until >= 0:
            posix.close(until)
        theirs.close()
        listening.give_name()
        listening.sock.close()
        self._pidfd = posix.pidfd_open(self.pid)
        super().__init__(ours)
        self.takes_disks, self.takes_shares = below is not None, shares is not None
        for each in (below, shares):
            if each is not None:
                each.close()

    def hand_over(self, machine: Machine) -> None:
        """Set the machine."""
        super().hand_over(machine)
        machine.loop.add(self._pidfd, lambda _events: self._on_end(machine))

    def go(self, user: int) -> None:
        """Tell the other process to restrict itself and to serve."""
        self._sock.sendmsg([_GO.pack(user)])

    def _on_end(self, machine: Machine) -> None:
        machine.loop.remove(self._pidfd)
        machine.stop("error", "the process of its control socket has ended")

    def close(self) -> None:
        """End the process, and wait for it. Called when the machine is closed; may be called again."""
        if self._pidfd < 0:
            return
        super().close()
        wait_for(self.pid, self._pidfd)
        self._pidfd = -1


def _serve_outside(
    sock: socket.socket,
    machine: int,
    listening: Listening,
    config: MachineConfig,
    below: Below | None,
    shares: Below | None,
    jail: str,
    until: int,
) -> None:
    """The main function of the forked process; does not return."""
    status = 1
    try:
        folders = [fd for each in (below, shares) if each is not None for fd in each.fds]
        ends = [sock.fileno(), *({until} - {-1})]
        leave_others({*ends, machine, listening.sock.fileno(), *folders}, b"pyvmm-control")
        starter = None if shares is None else Starter()
        forks = Forks(sock, machine, config, listening, jail)
        if told := sock.recv(_GO.size):
            (user,) = _GO.unpack(told)
            if user and below is not None:
                # By its real ids it may raise the machine's limit on the size of files; nothing else goes by these
                posix.setresgid(user, -1, -1)
                posix.setresuid(user, -1, -1)
            from vmm.processes.jail.restrict import keep_calls, restrict_process, seal_process

            restrict_process(_CAPABILITIES)
            seal_process()
            poll = select.poll()
            for each in (*ends, listening.sock.fileno()):
                poll.register(each, select.POLLIN)
            # Import the server at the first connection: it takes a third of the memory of this process, and most
            # machines never get a request
            if not any(fd in ends for fd, _ in poll.poll()):
                from vmm.control.server import ControlServer, import_the_rest
                from vmm.processes.jailed import Jailed

                # The filter allows no code to be mapped
                import_the_rest(disks=below is not None, shares=shares is not None)
                keep_calls()  # before anything that a client sent is read
                starts = None if starter is None else starter.start
                jailed = Jailed(sock, machine, config, starts, has_ids=True)
                poll.unregister(listening.sock)
                with ControlServer(jailed, listening, below, shares, forks.fork):
                    poll.poll()  # the machine's process sends nothing: this waits for its end
            if until >= 0:
                _see_it_end(sock, machine)
        forks.close()
        listening.close()
        status = 0
    finally:
        posix._exit(status)


def _see_it_end(sock: socket.socket, machine: int) -> None:
    """Kill a machine that does not end although it must: a guest may have taken over its process."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if not poll.poll(_END_S * 1000):
        from signal import SIGKILL, pidfd_send_signal

        pidfd_send_signal(machine, SIGKILL)
