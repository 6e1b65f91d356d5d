"""The resolver of a sandbox: each name has an address of its own, which stands for the name at the gateway.

So a connection says which name it is for, whatever its protocol is, and the sandbox never chooses the address that a
name leads to.  Queries are answered here and not passed on: the only thing that leaves the host is the name of a host
that the rules allow.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from pyvmm_sandbox.egress.rules import Address, Network, host_name

LookUp = Callable[[str], Awaitable[list[Address]]]

_BLOCK = ipaddress.IPv4Network("198.18.0.0/15")
"""RFC 2544: for tests between networks, so no server of the Internet is there."""
NAMES_MOST = 1 << 16
QUERIES_MOST = 64
"""Names that are resolved at once."""
_KEPT_S = 10.0
_TTL_S = 60
_LONGEST_MESSAGE = 4096
_A, _AAAA, _ANY_CLASS, _INTERNET = 1, 28, 255, 1
_OK, _FORMAT_ERROR, _FAILURE, _NO_NAME, _NOT_IMPLEMENTED = 0, 1, 2, 3, 4
_HEAD = struct.Struct(">HHHHHH")


class Names:
    """The names that a sandbox has asked for, and their addresses.

    :param rules: returns those that hold now
    :param refused: gets a name that is refused, and why
    :param look_up: the addresses of a name on the host
    """

    def __init__(self, rules: Callable[[], Network], refused: Callable[[str, str], None], look_up: LookUp) -> None:
        self._rules, self._refused, self._look_up_outside = rules, refused, look_up
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._names: dict[int, str] = {}
        self._known: OrderedDict[str, tuple[float, list[Address]]] = OrderedDict()
        self._places = asyncio.Semaphore(QUERIES_MOST)
        self._waiting = 0

    def name_of(self, address: Address) -> str | None:
        """The name that an address stands for; None: it stands for none and is one of the outside; empty: for none
        that is known."""
        if address not in _BLOCK:
            return None
        return self._names.get(int(address) - int(_BLOCK.network_address), "")

    def _address_of(self, name: str) -> bytes:
        number = self._numbers.get(name)
        if number is None:
            number = len(self._numbers) + 1
            if number > NAMES_MOST:
                _, number = self._numbers.popitem(last=False)
            self._numbers[name], self._names[number] = number, name
        self._numbers.move_to_end(name)
        return _BLOCK[number].packed

    async def resolve(self, name: str) -> list[Address]:
        """The real addresses of a name; none, if it has none, or too many names wait."""
        found = self._known.get(name)
        if found and found[0] > time.monotonic():
            return found[1]
        if self._waiting >= 4 * QUERIES_MOST:
            return []
        self._waiting += 1
        try:
            async with self._places:
                addresses = await self._look_up_outside(name)
        finally:
            self._waiting -= 1
        self._known[name] = time.monotonic() + _KEPT_S, addresses
        if len(self._known) > 1024:
            self._known.popitem(last=False)
        return addresses

    async def answer(self, query: bytes) -> bytes:
        """The answer to a query; empty: to nothing (RFC 1035, 4.1)."""
        if len(query) < _HEAD.size:
            return b""
        number, flags, questions, *_ = _HEAD.unpack_from(query)
        if flags & 0x8000:
            return b""
        if flags & 0x7800:
            return _reply(number, flags, _NOT_IMPLEMENTED)
        try:
            name, kind, end = _question(query) if questions == 1 else ("", 0, 0)
        except (IndexError, ValueError, struct.error):
            return _reply(number, flags, _FORMAT_ERROR)
        if not end:
            return _reply(number, flags, _FORMAT_ERROR)
        question = query[_HEAD.size : end]
        code, address = await self._look_up(name, kind)
        return _reply(number, flags, code, question, address)

    async def _look_up(self, name: str, kind: int) -> tuple[int, bytes]:
        try:
            name = host_name(name)
        except (ValueError, UnicodeError):
            return _NO_NAME, b""
        rules = self._rules()
        if not rules.permits_name(name):
            self._refused(name, "its name is not allowed")
            return _NO_NAME, b""
        if kind != _A:
            return _OK, b""
        return (_OK, self._address_of(name)) if await self.resolve(name) else (_NO_NAME, b"")


def _question(query: bytes) -> tuple[str, int, int]:
    """Its name, type, and where it ends; a name that is compressed, or of another class, is refused."""
    labels: list[str] = []
    at = _HEAD.size
    while size := query[at]:
        if size > 63 or len(labels) > 127:
            raise ValueError("no label")
        label = query[at + 1 : at + 1 + size]
        if b"." in label:
            raise ValueError("a dot in a label")
        labels.append(label.decode("ascii"))
        at += 1 + size
    kind, class_ = struct.unpack_from(">HH", query, at + 1)
    if class_ not in (_INTERNET, _ANY_CLASS):
        raise ValueError("a class that there is not")
    return ".".join(labels), kind, at + 5


def _reply(number: int, flags: int, code: int, question: bytes = b"", address: bytes = b"") -> bytes:
    # QR, RA, and RD of the query
    head = _HEAD.pack(number, 0x8080 | (flags & 0x0100) | code, bool(question), bool(address), 0, 0)
    if not address:
        return head + question
    return head + question + struct.pack(">HHHIH", 0xC000 | _HEAD.size, _A, _INTERNET, _TTL_S, len(address)) + address


class Datagrams(asyncio.DatagramProtocol):
    """Queries by UDP."""

    def __init__(self, names: Names, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._answer, self._spawn = names.answer, spawn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """See asyncio."""
        self._spawn(self._reply(data, addr))

    async def _reply(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if answer := await self._answer(data):
            self._transport.sendto(answer, addr)


async def serve_stream(names: Names, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Queries by TCP (RFC 1035, 4.2.2)."""
    while True:
        size = int.from_bytes(await reader.readexactly(2), "big")
        if size > _LONGEST_MESSAGE:
            return
        answer = await names.answer(await reader.readexactly(size))
        writer.write(len(answer).to_bytes(2, "big") + answer)
        await writer.drain()
