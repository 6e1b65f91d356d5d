"""The process that looks up names for a gateway, which has no files and so no resolver.

It has no secrets.  The C library parses the answers of servers here, and not beside the secrets.  A message is a name
in ASCII after a number of 4 bytes; the answer is the number and its addresses, separated by spaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import ipaddress
import os
import resource
import socket
import threading
from typing import NoReturn

from pyvmm_sandbox.egress.rules import Address, plain
from pyvmm_sandbox.errors import SandboxError
from vmm import VmmError, enter_resolver, jail_resolver

LOOKUPS_MOST = 16
"""Names that are looked up at once."""
_FOLDERS = ("/etc", "/run", "/usr/share/zoneinfo", "/var/lib")
"""Where the C library and its modules find names, servers and their order."""
_MESSAGE_MOST = 8 << 10
_ADDRESSES_MOST = 64
_NUMBER = 4
_STACK = 512 << 10
_FILES, _MEMORY = 128, 2 << 30
_READY = b"ready"


def start() -> socket.socket:
    """Start the process.  Only a process with one thread calls this.

    :returns: a socket for messages; the process ends with it
    :raises SandboxError: the host refuses to restrict it
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        _be_resolver(theirs)
    theirs.close()
    answer = ours.recv(_MESSAGE_MOST)
    if answer != _READY:
        ours.close()
        raise SandboxError(f"names cannot be looked up: {answer.decode(errors='replace') or 'the process has ended'}")
    ours.setblocking(False)
    return ours


def _be_resolver(messages: socket.socket) -> NoReturn:
    try:
        gc.freeze()
        messages = socket.socket(fileno=os.dup2(messages.detach(), 3, inheritable=False))
        os.closerange(4, 1 << 16)
        try:
            _restrict()
            threads = _start_threads(messages)
        except (VmmError, OSError, ValueError, RuntimeError) as error:
            messages.send(str(error).encode()[:_MESSAGE_MOST])
        else:
            messages.send(_READY)
            for thread in threads:
                thread.join()
    finally:
        os._exit(0)


def _start_threads(messages: socket.socket) -> list[threading.Thread]:
    ready = threading.Barrier(LOOKUPS_MOST + 1)
    threading.stack_size(_STACK)
    threads = [threading.Thread(target=_serve, args=(messages, ready)) for _ in range(LOOKUPS_MOST)]
    for thread in threads:
        thread.start()
    enter_resolver()
    ready.wait()
    return threads


def _restrict() -> None:
    for what, most in (
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_AS, _MEMORY),
    ):
        resource.setrlimit(what, (most, most))
    _load_modules()
    os.chdir("/")
    jail_resolver(_FOLDERS)


def _load_modules() -> None:
    """Map the C library's modules for names (nsswitch.conf(5)): later, no code can be mapped."""
    with contextlib.suppress(OSError), open("/etc/nsswitch.conf", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, rest = line.partition("#")[0].partition(":")
            if name.strip() == "hosts":
                for word in rest.split():
                    with contextlib.suppress(OSError):  # a condition, or one that is part of the C library
                        ctypes.CDLL(f"libnss_{word}.so.2")


def _serve(messages: socket.socket, ready: threading.Barrier) -> None:
    enter_resolver()
    ready.wait()
    while message := messages.recv(_MESSAGE_MOST):
        try:
            rows = socket.getaddrinfo(message[_NUMBER:], None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, ValueError):
            rows = []
        found = [*dict.fromkeys(str(row[4][0]) for row in rows)][:_ADDRESSES_MOST]
        messages.send(message[:_NUMBER] + " ".join(found).encode())


class Resolver:
    """The gateway's side.

    :param messages: of :func:`start`
    """

    def __init__(self, messages: socket.socket) -> None:
        self._messages = messages
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._last = 0
        self._ended = False

    def attach(self) -> None:
        """Begin to read answers, in the running loop."""
        asyncio.get_running_loop().add_reader(self._messages, self._receive)

    async def __call__(self, name: str) -> list[Address]:
        """The addresses of a name; none, if it has none."""
        if self._ended:
            return []
        self._last = (self._last + 1) % (1 << 32)
        number, future = self._last, asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            await asyncio.get_running_loop().sock_sendall(
                self._messages, number.to_bytes(_NUMBER, "big") + name.encode("ascii")
            )
            answer = await future
        except (OSError, UnicodeError):
            return []
        finally:
            del self._waiting[number]
        words = answer.decode("ascii", "replace").split()
        with contextlib.suppress(ValueError):
            return list(dict.fromkeys(plain(ipaddress.ip_address(word.partition("%")[0])) for word in words))
        return []

    def _receive(self) -> None:
        try:
            message = self._messages.recv(_MESSAGE_MOST)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._ended = True
            asyncio.get_running_loop().remove_reader(self._messages)
        for number in [int.from_bytes(message[:_NUMBER], "big")] if message else [*self._waiting]:
            future = self._waiting.get(number)
            if future is not None and not future.done():
                future.set_result(message[_NUMBER:])
