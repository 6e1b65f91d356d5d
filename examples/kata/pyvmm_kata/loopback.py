"""What the host dials at a loopback address of the pod's network namespace, brought to the guest's servers.

kubelet's port-forward (containerd) dials 127.0.0.1 or ::1 in that namespace, where a container of runc's would listen.
Two sockets listen there, one for each family, and a BPF program of the namespace gives them every connection to such an
address, whatever its port is (Documentation/bpf/prog_sk_lookup.rst; Linux 5.9).  The connection says which port was
dialled; the guest's agent dials the same in the guest.

Nothing of this is the guest's to use: its frames to such an address go from its tap device to the pod's interface
(*mirred*) before the namespace's stack sees them, which takes such addresses from ``lo`` alone.  The program belongs to
a descriptor of ours, and goes with it.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING

from pyvmm_kata.mounts import libc

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CONNECTIONS = 256
"""At a time; others wait in the backlog."""
ANSWER_S = 40.0
"""How long the guest may take to say whether somebody listens there: longer than its agent gives itself."""
_PIECE = 65536
_BACKLOG = 128
_NETNS = "/proc/thread-self/ns/net"

# x86-64; linux/bpf.h
_BPF, _MAP_CREATE, _MAP_UPDATE_ELEM, _PROG_LOAD, _LINK_CREATE = 321, 0, 2, 5, 28
_SOCKMAP, _SK_LOOKUP_PROGRAM, _SK_LOOKUP = 15, 30, 36
_PSEUDO_MAP_FD = 1
# struct bpf_sk_lookup
_FAMILY, _PROTOCOL, _LOCAL_IP4, _LOCAL_IP6 = 8, 12, 40, 44
_LOOKUP, _SK_RELEASE, _SK_ASSIGN = 1, 86, 124
_LOAD, _LOAD_IMM, _STORE = 0x61, 0x18, 0x63
_MOVE, _MOVE_IMM, _ADD_IMM, _AND_IMM = 0xBF, 0xB7, 0x07, 0x57
_JUMP, _IF_SAME, _UNLESS_SAME, _CALL, _EXIT = 0x05, 0x15, 0x55, 0x85, 0x95


def _program(sockets: int) -> bytes:
    """The instructions, each struct bpf_insn, with the map of the two sockets."""
    made: list[tuple[int, int, int, int, int]] = []
    targets: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []

    def add(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0, to: str = "") -> None:
        if to:
            jumps.append((len(made), to))
        made.append((code, dst, src, off, imm))

    def mark(name: str) -> None:
        targets[name] = len(made)

    add(_MOVE, 6, 1)
    add(_LOAD, 2, 1, _PROTOCOL)
    add(_UNLESS_SAME, 2, imm=socket.IPPROTO_TCP, to="pass")
    add(_MOVE_IMM, 7, imm=0)
    add(_LOAD, 2, 1, _FAMILY)
    add(_IF_SAME, 2, imm=socket.AF_INET6, to="inet6")
    add(_LOAD, 2, 1, _LOCAL_IP4)
    add(_AND_IMM, 2, imm=0xFF)  # the first byte of four
    add(_UNLESS_SAME, 2, imm=127, to="pass")
    add(_JUMP, to="assign")
    mark("inet6")
    for part, value in enumerate((0, 0, 0, int.from_bytes(b"\0\0\0\1", "little"))):
        add(_LOAD, 2, 1, _LOCAL_IP6 + 4 * part)
        add(_UNLESS_SAME, 2, imm=value, to="pass")
    add(_MOVE_IMM, 7, imm=1)
    mark("assign")
    add(_STORE, 10, 7, -4)
    add(_MOVE, 2, 10)
    add(_ADD_IMM, 2, imm=-4)
    add(_LOAD_IMM, 1, _PSEUDO_MAP_FD, imm=sockets)
    add(0)
    add(_CALL, imm=_LOOKUP)
    add(_IF_SAME, 0, imm=0, to="pass")
    add(_MOVE, 7, 0)
    add(_MOVE, 1, 6)
    add(_MOVE, 2, 7)
    add(_MOVE_IMM, 3, imm=0)
    add(_CALL, imm=_SK_ASSIGN)
    add(_MOVE, 1, 7)
    add(_CALL, imm=_SK_RELEASE)
    mark("pass")
    add(_MOVE_IMM, 0, imm=1)  # SK_PASS: without a socket, to whoever listens there
    add(_EXIT)
    for index, name in jumps:
        code, dst, src, _, imm = made[index]
        made[index] = (code, dst, src, targets[name] - index - 1, imm)
    return b"".join(struct.pack("<BBhi", code, src << 4 | dst, off, imm) for code, dst, src, off, imm in made)


def _address(data: bytes) -> int:
    """Of its bytes, while it is there.  ctypes' own buffers would make a type for each length."""
    return int(ctypes.c_void_p.from_buffer(ctypes.c_char_p(data)).value or 0)


def _bpf(command: int, layout: str, *values: int | bytes) -> int:
    """bpf(2); OSError."""
    attributes = struct.pack(layout, *values)
    result = int(libc.syscall(_BPF, command, attributes, len(attributes)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _steer(listeners: list[socket.socket]) -> int:
    """Give the two sockets what this thread's network namespace is sent at loopback addresses, until the descriptor is
    closed.  OSError: the kernel cannot, or we may not."""
    fds: list[int] = []
    try:
        fds.append(sockets := _bpf(_MAP_CREATE, "=4I", _SOCKMAP, 4, 8, 2))
        for index, listener in enumerate(listeners):
            key, value = index.to_bytes(4, "little"), listener.fileno().to_bytes(8, "little")
            _bpf(_MAP_UPDATE_ELEM, "=I4x3Q", sockets, _address(key), _address(value), 0)
        code, words, name = _program(sockets), b"Apache-2.0", b"pyvmm_loopback"
        head = (_SK_LOOKUP_PROGRAM, len(code) // 8, _address(code), _address(words), 0, 0, 0, 0, 0)
        fds.append(program := _bpf(_PROG_LOAD, "=2I2Q2IQ2I16s2I", *head, name, 0, _SK_LOOKUP))
        fds.append(namespace := os.open(_NETNS, os.O_RDONLY | os.O_CLOEXEC))
        return _bpf(_LINK_CREATE, "=4I", program, namespace, _SK_LOOKUP, 0)
    finally:
        for fd in fds:
            os.close(fd)


class Loopback:
    """Listens, and carries bytes on threads of its own: two for each connection.

    Made in the pod's network namespace.

    :param dial: a connection to the agent's port for this
    :raises OSError: the kernel has no such programs, or this process may not load one
    """

    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        self._dial = dial
        self._places = threading.Semaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        self._link = -1
        self._listeners: list[socket.socket] = []
        try:
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                self._listen(family, address)
            self._link = _steer(self._listeners)
        except BaseException:
            self.close()
            raise

    def _listen(self, family: int, address: str) -> None:
        try:
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:
            if family == socket.AF_INET6:
                return  # a kernel without
            raise
        self._listeners.append(listener)
        try:
            listener.bind((address, 0))
        except OSError:
            if family == socket.AF_INET6:
                self._listeners.pop().close()  # switched off in this namespace
                return
            raise
        listener.listen(_BACKLOG)

    def start(self) -> None:
        """Serve who dials, from now on."""
        threading.Thread(target=self._accept, name="loopback", daemon=True).start()

    def close(self) -> None:
        """Let go of the namespace, and end what is open.  Harmless when done twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._link >= 0:
                os.close(self._link)
            for each in (*self._listeners, *self._open):
                _shut(each, socket.SHUT_RDWR)  # whoever waits for it wakes up
        self._places.release()

    def _accept(self) -> None:
        poll = select.poll()
        by_fd = {listener.fileno(): listener for listener in self._listeners}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        while not self._closed:
            self._places.acquire()
            client = None
            while client is None and not self._closed:
                client = self._accept_one(by_fd[fd] for fd, _ in poll.poll())
            if client is not None:
                threading.Thread(target=self._serve, args=(client,), name="loopback", daemon=True).start()
        for listener in self._listeners:
            listener.close()

    def _accept_one(self, ready: object) -> socket.socket | None:
        for listener in ready:  # type: ignore[attr-defined]
            try:
                client: socket.socket = listener.accept()[0]
            except OSError as error:
                if error.errno in (23, 24):
                    threading.Event().wait(0.1)
                continue
            client.setblocking(True)
            return client
        return None

    def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        try:
            server = self._connect(client)
            if server is not None and self._add(client, server):
                back = threading.Thread(target=_pump, args=(server, client), name="loopback", daemon=True)
                back.start()
                _pump(client, server)
                back.join()
        except (OSError, RuntimeError):
            _reset(client)  # the guest is gone, or there is no room for a thread
        finally:
            with self._lock:
                self._open -= {client, server}
            client.close()
            if server is not None:
                server.close()
            self._places.release()

    def _add(self, *sockets: socket.socket) -> bool:
        with self._lock:
            if not self._closed:
                self._open.update(sockets)
            return not self._closed

    def _connect(self, client: socket.socket) -> socket.socket | None:
        """The same port of the guest's; None: nobody listens there, and the client knows."""
        address, port = client.getsockname()[:2]
        v4 = socket.inet_aton(address) if client.family == socket.AF_INET else bytes(4)
        server = self._dial()
        try:
            server.settimeout(ANSWER_S)
            server.sendall(v4 + port.to_bytes(2, "big"))
            if server.recv(1) == b"\0":
                server.settimeout(None)
                return server
        except BaseException:
            server.close()
            raise
        server.close()
        _reset(client)
        return None


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Bytes from one to the other until the first has no more; then the second is told so."""
    piece = bytearray(_PIECE)
    view = memoryview(piece)
    try:
        while got := source.recv_into(piece):
            target.sendall(view[:got])
    except OSError:
        # The one or the other is gone: nothing is left to be said either way
        _shut(source, socket.SHUT_RDWR)
        _shut(target, socket.SHUT_RDWR)
    else:
        _shut(target, socket.SHUT_WR)


def _shut(sock: socket.socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        pass  # it has ended


def _reset(client: socket.socket) -> None:
    """Have its end be seen as an error: as close to a refusal as it comes."""
    try:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass  # it has ended
