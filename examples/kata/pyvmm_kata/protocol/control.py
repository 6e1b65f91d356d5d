"""The protocol between the commands and the process with a container's virtual machine.

It uses a unix socket in the state's folder, which only its owner can enter. A connection has one request, a line of
JSON with descriptors, and answers, which are lines of JSON. (ttrpc cannot pass descriptors.)
"""

from __future__ import annotations

import array
import gc
import json
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from pyvmm_kata.errors import HostError, VmmError
from pyvmm_kata.state import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm_kata.state import Json

NAME = "control"
MAX_LINE = 16 << 20
MAX_FDS = 250
CALL_S = 90.0
"""Longer than the monitor waits for its guest, so that the monitor's error comes first, which says more."""
CREATE_S = 150.0
"""The same for the creation of a machine with its container."""
MOUNT_S = 0.5
"""Seconds that the creation of a container may take longer for each of its mounts: on a host with much load 1,000 binds
take over a minute."""


def creation_s(spec: Json) -> float:
    """How long a command waits for a new container.

    :param spec: its config.json
    """
    return CREATE_S + MOUNT_S * len(spec.get("mounts") or ())


class Refused(VmmError):
    """The monitor refused a request; the message is the monitor's, and the code that of its error."""

    default_code = "oci-refused"


def refusal(error: VmmError) -> Json:
    """The answer to a request that failed."""
    return {"error": f"{error} ({error.hint})" if error.hint else str(error), "code": error.code}


class Channel:
    """One end of a connection, for one thread; :meth:`send` can be called from any."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self._sock = sock
        self._peer = peer
        self._rest = b""
        self.fds: list[int] = []
        """Received descriptors; a caller that takes ownership clears the list."""

    def fileno(self) -> int:
        """The socket, for poll(2); a complete line may have been received already."""
        return self._sock.fileno()

    def send(self, value: Json, fds: Sequence[int] = ()) -> None:
        """
        :param fds: fewer than the line has bytes times :data:`MAX_FDS`
        :raises OSError: the other end is gone
        """
        data = json.dumps(value).encode() + b"\n"
        # One message carries so many (unix(7), SCM_MAX_FD); the last ones come with the rest of the line
        while fds:
            some, fds = fds[:MAX_FDS], fds[MAX_FDS:]
            extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", some))]
            data = data[self._sock.sendmsg([data[:1] if fds else data], extra) :]
        if data:  # send(2) of no bytes fails, too, when the other end has answered and closed the connection
            self._sock.sendall(data)

    def send_bytes(self, value: Json, data: bytes) -> None:
        """Send a line, and the data that it announces.

        :raises OSError: the other end is gone
        """
        self._sock.sendall(json.dumps(value).encode() + b"\n" + data)

    def send_data(self, data: bytes) -> None:
        """The same for an answer that is nothing but data, which :func:`fetch` returns."""
        self.send_bytes({"bytes": len(data)}, data)

    def request(self, value: Json, fds: Sequence[int] = ()) -> None:
        """Send a request, for which :meth:`answer` waits.

        :raises HostError: the other end has closed the connection, as it may at any time after :func:`connect`
        """
        try:
            self.send(value, fds)
        except OSError as error:
            raise HostError(f"{self._peer} ended before it was asked", code="oci-gone") from error

    def receive(self, timeout: float | None = CALL_S) -> Json | None:
        """The next line; None if the peer has closed.

        :raises HostError: nothing came in time, or no JSON
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._rest:
            if not self._read_on(timeout, deadline):
                return None
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise HostError(f"{self._peer} sent no JSON", code="oci-control") from error
        if not isinstance(value, dict):
            raise HostError(f"{self._peer} sent no object", code="oci-control")
        return value

    def take(self, size: int, timeout: float = CALL_S) -> bytes:
        """The *size* bytes after the last line.

        :raises HostError: they did not come, or not in time
        """
        deadline = time.monotonic() + timeout
        while len(self._rest) < size:
            if not self._read_on(timeout, deadline):
                raise HostError(f"{self._peer} ended before it had sent all", code="oci-control")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _read_on(self, timeout: float | None, deadline: float | None) -> bool:
        """Read some more bytes; False if the peer has closed."""
        self._sock.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
        try:
            data, extra, _, _ = self._sock.recvmsg(1 << 16, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise HostError(f"{self._peer} did not answer in {timeout:g} s", code="oci-control") from None
        except ConnectionError:
            return False
        for _, _, content in extra:
            numbers = array.array("i")
            numbers.frombytes(content[: len(content) // 4 * 4])
            self.fds += numbers
        self._rest += data
        if len(self._rest) > MAX_LINE:
            raise HostError(f"{self._peer} sent more than {MAX_LINE} bytes", code="oci-control")
        return bool(data)

    def answer(self, timeout: float | None = CALL_S) -> Json:
        """The next line, which is the answer to a request.

        :raises Refused: the request was refused
        :raises HostError: the other end is gone, or did not answer in time
        """
        value = self.receive(timeout)
        if value is None:
            raise HostError(f"{self._peer} ended before it answered", code="oci-control")
        if "error" in value:
            raise Refused(str(value["error"]), code=str(value.get("code", "")))
        return value

    def close(self) -> None:
        """Close it, and descriptors that nobody took."""
        self._sock.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def fork(peer: str, body: Callable[[socket.socket], int], agree: Callable[[Channel, int], None]) -> None:
    """Run *body* in a child, in a session of its own; its result is the child's exit status. The child has the garbage
    collector off: one that goes on for long enables it.

    :param peer: the child's name in errors
    :param body: receives the child's end of a connection
    :param agree: receives the other end and the child's pid; if it raises, the child is killed
    """
    reap()
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pid = os.fork()
    if pid == 0:
        status = 255
        # A collection would write to each object of the caller's, and so copy each page with one
        gc.disable()
        gc.freeze()
        try:
            ours.close()
            os.setsid()
            status = body(its)
        except BaseException as error:
            sys.stderr.write(f"pyvmm-oci: {type(error).__name__}: {error}\n")
        finally:
            os._exit(status)
    its.close()
    channel = Channel(ours, peer)
    try:
        agree(channel, pid)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    else:
        _children.add(pid)
    finally:
        channel.close()


_children: set[int] = set()


def reap() -> None:
    """Take the exit statuses of children of :func:`fork` that have ended: a program that lives on would keep them."""
    for pid in list(_children):
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                _children.discard(pid)
        except ChildProcessError:  # another thread was faster, or this process is a fork of the one with the children
            _children.discard(pid)


def leave_descriptors(kept: set[int]) -> None:
    """Close everything that the caller may have left open, and redirect standard input, output and error to /dev/null:
    the reader of the container's output must see its end when the container's processes close it."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # that of the listing itself


def _path(folder_fd: int) -> str:
    return f"/proc/self/fd/{folder_fd}/{NAME}"  # a unix socket's path must be short, and the folder's may not be


def connect(folder: str, timeout: float = CALL_S) -> Channel:
    """A connection to the monitor of the container whose state is in *folder*.

    :raises ConfigError: there is no such container
    :raises HostError: its monitor is gone
    """
    container_id = os.path.basename(folder)
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise missing(container_id) from None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(timeout)
        sock.connect(_path(fd))
    except OSError as error:
        sock.close()
        raise HostError(
            f"container {container_id} not running",
            code="oci-gone",
            hint=f"its monitor does not answer: {error.strerror or error}",
        ) from error
    finally:
        os.close(fd)
    return Channel(sock, f"the monitor of container {container_id}")


def call(folder: str, op: str, timeout: float = CALL_S, **arguments: Any) -> Json:
    """One request and its answer; see :meth:`Channel.answer` and :func:`connect`."""
    channel = connect(folder, timeout)
    try:
        channel.request({"op": op, **arguments})
        return channel.answer(timeout)
    finally:
        channel.close()


def fetch(folder: str, op: str) -> bytes:
    """One request whose answer is data, as :meth:`Channel.send_data` sends it; see :func:`call`."""
    channel = connect(folder)
    try:
        channel.request({"op": op})
        return channel.take(int(channel.answer()["bytes"]))
    finally:
        channel.close()


def listen(folder_fd: int) -> socket.socket:
    """The monitor's end."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.bind(_path(folder_fd))
    sock.listen(64)
    return sock
