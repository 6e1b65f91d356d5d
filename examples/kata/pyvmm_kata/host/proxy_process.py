"""A container's face: the process whose pid is the container's on the host (``launcher/face.c``).

It has the namespaces that the host's tools join by that pid: the container's files with its volumes, its network, a
pid, IPC and UTS namespace, and nothing of the host. It is a child of the process that called :meth:`Face.launch`. The
process that has its socket sends it the mounts, receives its signals, and ends it with the container's status.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import HostError
from pyvmm_kata.host import mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PROGRAM = "pyvmm-face"
LAUNCH_S = 30.0
FAILED, KILLED = 255, 128 + 9
_CREDENTIALS = struct.Struct("3i")
_PACKET = 1 + 4096


class Shown(NamedTuple):
    """A mount of the container, as its proxy shows it.

    :ivar destination: its path in the container
    :ivar source: its source, a path of ours; empty: only the guest has it, and the proxy has an empty, read-only place
    :ivar read_only: nothing can be written there
    :ivar processes: the guest has its /proc there, of which the proxy shows the container's processes
    """

    destination: str
    source: str = ""
    read_only: bool = False
    processes: bool = False


class Face:
    """One face, running.

    :ivar pid: its number in this process's pid namespace
    """

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self._sock = sock
        self._requests = -1  # of those who look at the processes that it shows

    @classmethod
    def launch(
        cls,
        namespaces: Mapping[str, str],
        hostname: str = "",
        cgroup: str = "",
        spawn: Callable[[list[str]], socket.socket] | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Face:
        """Start one.

        :param namespaces: paths of those to enter, by type (``network``, ``ipc``, ``uts``, ``pid``); all others are new
        :param spawn: starts it with these arguments, as a child of another process, and returns its socket; None: as a
            child of this one
        :param cgroup: the directory of a cgroup that it enters, if permitted, in parallel to other work; empty: none
        :param meanwhile: called while it starts: the kernel takes some milliseconds to make its namespaces
        :raises HostError: the host does not permit it
        """
        names = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
        words = [f"{short}={namespaces.get(long, '')}" for long, short in names.items()]
        if hostname and not namespaces.get("uts"):
            words.append(f"hostname={hostname}")
        if cgroup:
            words.append(f"cgroup={cgroup}")
        ours, launcher = (spawn(words), 0) if spawn is not None else _spawn(words)
        try:
            try:
                meanwhile()
            finally:
                if launcher:
                    os.waitpid(launcher, 0)
            return cls(_introduced(ours), ours)
        except BaseException:
            ours.close()
            raise

    @classmethod
    def adopt(cls, pid: int, fd: int) -> Face:
        """A proxy that another process has launched, from a duplicate of its :meth:`fileno`, which is taken over."""
        return cls(pid, socket.socket(fileno=fd))

    def fileno(self) -> int:
        """Its socket."""
        return self._sock.fileno()

    def namespace(self, kind: str) -> str:
        """The path of one of its namespaces: ``net``."""
        return f"/proc/{self.pid}/ns/{kind}"

    def show(self, root: Shown | None, volumes: Sequence[Shown], console: int = -1) -> None:
        """Show the container's files; without a *root* it shows none, and nothing can be written there.

        :param console: a terminal whose size changes it reports, by SIGWINCH
        :raises HostError: they cannot be shown; the proxy then shows none
        """
        if console >= 0:
            self._send(b"C", console)
        if root is not None:
            self._send_tree("R", root)
            for volume in volumes:
                if volume.source:
                    self._send_tree("V", volume)
                else:
                    self._send(b"T" + os.fsencode(volume.destination))
            # After all others: an access in there waits until :meth:`watch` runs, and so would the face
            self._send_processes([volume.destination for volume in volumes], [v for v in volumes if v.processes])
        self._send(b"D")
        while (packet := self._receive())[:1] == b"S":
            pass  # a signal for a container that is not there yet
        number = _number(packet, b"M")
        if number:
            raise HostError(
                f"the container's files cannot be shown on the host: {os.strerror(-number)}", code="face", errno=-number
            )

    def watch(self, on_signal: Callable[[int], None], processes: Callable[[], bytes] | None = None) -> None:
        """Report its signals until it has ended; returns then.

        :param processes: returns the guest's files about the container's processes, for readers of those that the face
            shows (:meth:`pyvmm_kata.pod.container.Container.process_files`)
        """
        ready = select.poll()
        ready.register(self._sock, select.POLLIN)
        if self._requests >= 0:
            ready.register(self._requests, select.POLLIN)
        while True:
            events = dict(ready.poll())
            if (wanted := events.get(self._requests)) is not None:
                ready.unregister(self._requests)
                if wanted & select.POLLIN:
                    self._serve(processes)
                else:
                    self._drop_requests()  # it is mounted nowhere any more
            elif not (packet := self._receive()):
                break
            elif packet[:1] == b"S" and len(packet) == 2:
                on_signal(packet[1])
        self._drop_requests()

    def _serve(self, processes: Callable[[], bytes] | None) -> None:
        """Start the thread that serves the /proc, at the first access."""
        try:
            namespace = os.readlink(self.namespace("pid"))
        except OSError:
            processes = None  # it has just ended
        if processes is None:
            self._drop_requests()
            return
        from pyvmm_kata.host import procfs

        device, self._requests = self._requests, -1
        work = procfs.Server(device, processes, namespace).run
        threading.Thread(target=work, name="processes", daemon=True).start()

    def _drop_requests(self) -> None:
        """Close the FUSE device: further accesses fail."""
        device, self._requests = self._requests, -1
        if device >= 0:
            os.close(device)

    def end(self, status: int) -> None:
        """End it with a container's exit status."""
        self._send(bytes((ord("X"), status & 255)))

    def reap(self) -> None:
        """Wait for its end, as its parent."""
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass  # another thread has

    def close(self) -> None:
        """Close its socket: it ends with status 137, unless :meth:`end` has set another."""
        self._sock.close()
        self._drop_requests()

    def _send_processes(self, places: Sequence[str], wanted: Sequence[Shown]) -> None:
        """Show the container's processes, if nothing else is shown below, and the host has FUSE."""
        if not wanted or any(place.startswith(wanted[0].destination.rstrip("/") + "/") for place in places):
            return
        try:
            tree, self._requests = mounts.open_fuse("processes")
        except HostError:
            return  # the empty place is there already
        try:
            self._send(b"V" + os.fsencode(wanted[0].destination), tree)
        finally:
            os.close(tree)

    def _send_tree(self, kind: str, shown: Shown) -> None:
        tree = mounts.open_tree(shown.source, read_only=shown.read_only)
        try:
            mounts.follow_links(tree)
            self._send(kind.encode() + os.fsencode(shown.destination), tree)
        finally:
            os.close(tree)

    def _send(self, packet: bytes, tree: int = -1) -> None:
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (tree,)))] if tree >= 0 else []
        try:
            self._sock.sendmsg([packet], extra)
        except OSError:
            pass  # it has ended: the thread in :meth:`watch` sees that

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(_PACKET)
        except OSError:
            return b""


def _spawn(words: list[str]) -> tuple[socket.socket, int]:
    """Start a face as a child of this process (launcher/pool.c does the same); its socket, and who launches it."""
    program = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), PROGRAM)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((null, null, null, its.fileno()))]
        launcher = os.posix_spawn(program, [PROGRAM, "3", *words], {}, file_actions=actions)
    except OSError as error:
        ours.close()
        raise HostError(f"{program}: {error.strerror}", code="face", errno=error.errno or 0) from error
    finally:
        os.close(null)
        its.close()
    return ours, launcher


def _introduced(sock: socket.socket) -> int:
    """The pid of the proxy process at the other end of *sock*, once it runs."""
    sock.settimeout(LAUNCH_S)
    try:
        packet, extra, _, _ = sock.recvmsg(_PACKET, socket.CMSG_SPACE(_CREDENTIALS.size))
    except TimeoutError:
        raise HostError(f"the container's face did not start in {LAUNCH_S:g} s", code="face") from None
    sock.settimeout(None)
    if packet[:1] == b"F":
        number = -_number(packet, b"F")
        raise HostError(f"{os.fsdecode(packet[5:])}: {os.strerror(number)}", code="face", errno=number)
    for _, kind, content in extra:
        if packet[:1] == b"P" and kind == socket.SCM_CREDENTIALS:
            return int(_CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0])
    raise HostError("the container's face ended before it was there", code="face")


def _number(packet: bytes, kind: bytes) -> int:
    if packet[:1] != kind or len(packet) < 5:
        raise HostError("the container's face has ended", code="face")
    return int.from_bytes(packet[1:5], "little", signed=True)
