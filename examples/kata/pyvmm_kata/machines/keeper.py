"""The process beside a container of ``pyvmm run -d``: writes its output to a log of limited size, and serves
``attach``.

It runs as a script without this package, so that it imports little. Its argument is JSON, see :class:`Keeper`.

The log has lines as Kubernetes' container log format: time, ``stdout`` or ``stderr``, ``F`` or ``P`` (the line goes on
in the next record of the stream), and the text. A client of the socket sends input, and receives packets: the number of
a stream and its output; at the end, a zero and the exit status as text.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOG, OLD_LOG, SOCKET = "log", "log.1", "attach"
LOG_MOST = 2 << 20
"""Bytes of each of the two files."""
END = 0
"""Begins the last packet."""
_STREAMS = {1: b"stdout", 2: b"stderr"}
_CHUNK = 32 << 10
_CLIENTS_MOST = 16
_CLIENT_S = 5.0
"""Seconds that a client may hold up the container's output before it is disconnected."""
_END_S = 30.0


class Log:
    """The log: the older file is replaced by the newer one when that is full.

    :param folder: of the container's state
    """

    def __init__(self, folder: str) -> None:
        self._path, self._old = os.path.join(folder, LOG), os.path.join(folder, OLD_LOG)
        self._fd = self._open()
        self._size = 0

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, stream: int, data: bytes) -> None:
        """Add output; what does not fit on the disk is lost."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}Z"
        head = stamp.encode() + b" " + _STREAMS[stream]
        *lines, rest = data.split(b"\n")
        text = b"".join(head + b" F " + line + b"\n" for line in lines)
        if rest:
            text += head + b" P " + rest + b"\n"
        try:
            if self._size + len(text) > LOG_MOST:
                os.rename(self._path, self._old)
                fd, self._fd, self._size = self._fd, self._open(), 0
                os.close(fd)
            self._size += os.write(self._fd, text)
        except OSError:
            pass  # the disk is full, or the container has been removed


class Keeper:
    """See the module.

    :param given: ``folder`` of the container's state; ``pid`` of its process on the host; the descriptors ``out``,
        ``err`` (-1: it has a terminal, which is ``out``), ``input`` (-1: none) and ``listener``; ``remove``: a command
        to run at the end, or nothing
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self._folder: str = given["folder"]
        self._remove: list[str] = given["remove"]
        self._input: int = given["input"]
        self._process = os.pidfd_open(given["pid"])
        self._log = Log(self._folder)
        self._sources = {given["out"]: 1}
        if given["err"] >= 0:
            self._sources[given["err"]] = 2
        self._listener = socket.socket(fileno=given["listener"])
        self._clients: dict[int, socket.socket] = {}
        self._typed = b""
        if self._input >= 0:
            os.set_blocking(self._input, False)

    def run(self) -> None:
        """Until all output has come; then tell the clients the exit status."""
        while self._sources:
            for fd, events in self._poll():
                if fd in self._clients:
                    self._from_client(fd)
                elif fd == self._listener.fileno():
                    self._accept()
                else:
                    if fd == self._input and events & (select.POLLOUT | select.POLLERR):
                        self._type()
                    if fd in self._sources and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                        self._from_container(fd)
        ended = select.poll()
        ended.register(self._process, select.POLLIN)
        ended.poll(_END_S * 1000)
        self._send(END, b"%d" % self._status())
        if self._remove:
            os.closerange(3, 256)
            os.execv(self._remove[0], self._remove)

    def _poll(self) -> list[tuple[int, int]]:
        waiting = select.poll()
        for fd in self._sources:
            waiting.register(fd, select.POLLIN | (select.POLLOUT if self._typed and fd == self._input else 0))
        if self._typed and self._input >= 0 and self._input not in self._sources:
            waiting.register(self._input, select.POLLOUT)
        waiting.register(self._listener, select.POLLIN)
        for fd in self._clients:
            waiting.register(fd, 0 if self._typed else select.POLLIN)
        return waiting.poll()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if len(self._clients) == _CLIENTS_MOST:
            client.close()
            return
        client.settimeout(_CLIENT_S)
        self._clients[client.fileno()] = client

    def _drop(self, fd: int) -> None:
        self._clients.pop(fd).close()

    def _from_client(self, fd: int) -> None:
        try:
            data = self._clients[fd].recv(_CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return  # the event was of another client, which had this number
        except OSError:
            data = b""
        if not data:
            self._drop(fd)
        elif self._input >= 0:
            self._typed += data
            self._type()

    def _type(self) -> None:
        try:
            self._typed = self._typed[os.write(self._input, self._typed) :]
        except BlockingIOError:
            pass  # the program does not read: poll() reports when it does
        except OSError:
            self._typed = b""
            if self._input not in self._sources:
                os.close(self._input)
            self._input = -1

    def _from_container(self, fd: int) -> None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that nobody has open any more
                raise
            data = b""
        if data:
            self._log.write(self._sources[fd], data)
            self._send(self._sources[fd], data)
        else:
            del self._sources[fd]
            if fd != self._input:
                os.close(fd)

    def _send(self, stream: int, data: bytes) -> None:
        for fd, client in list(self._clients.items()):
            try:
                client.send(bytes([stream]) + data)
            except OSError:
                self._drop(fd)

    def _status(self) -> int:
        import json

        try:
            with open(os.path.join(self._folder, "state.json"), encoding="utf-8") as file:
                return int(json.load(file).get("exitStatus", 255))
        except (OSError, ValueError):
            return 255


if __name__ == "__main__":
    import json

    Keeper(json.loads(sys.argv[1])).run()
