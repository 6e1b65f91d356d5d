"""The name of a server in the first bytes of a connection: SNI of TLS, and Host of HTTP."""

from __future__ import annotations

import re
from typing import NamedTuple

from pyvmm_sandbox.egress.rules import host_name

FIRST_MOST = 64 << 10
"""Bytes that are read to find it; a connection with a longer beginning is refused."""
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST = 22, 1, 0, 0
_RECORD, _MESSAGE = 5, 4
_BEFORE = b"\r\n\t "
"""What servers skip before a request (RFC 9112, 2.2 has line ends; some skip spaces)."""
_METHOD = re.compile(rb"[A-Z][A-Z_-]{0,31}[ \t](?:[^\x00-\x08\x0a-\x1f\x7f]*(?:\r?\Z|[ \t]HTTP/[0-9.]+[ \t]*\r?\n))")
"""The beginning of a request, whose first line is incomplete or has a version."""
_COULD_BE_METHOD = re.compile(rb"(?:[A-Z][A-Z_-]{0,31})?")
_HOST_LINE = re.compile(rb"(?:^|\n)host[ \t]*:[ \t]*([^\r\n]*?)[ \t]*\r?(?=\n)", re.IGNORECASE)
_ABSOLUTE = re.compile(rb"[A-Z_-]+[ \t]+[a-z]+://([^/ ?#]*)", re.IGNORECASE)


class Found(NamedTuple):
    """What the beginning of a connection shows.

    :ivar kind: ``tls``, ``http``, or ``other``
    :ivar names: that it is for, as :func:`host_name`; what is no name is as it was
    """

    kind: str
    names: frozenset[str]


class _Short(Exception):
    """There are too few bytes yet."""


def names(data: bytes) -> Found | None:
    """Detect the protocol in a client's first bytes; returns None if more bytes are needed.

    :raises ValueError: they are the beginning of TLS or HTTP, and wrong
    """
    try:
        if data[:1] == bytes([_HANDSHAKE]):
            return Found("tls", _names_of_hello(data))
        request = data.lstrip(_BEFORE)
        if _METHOD.match(request):
            return Found("http", _names_of_request(request))
        if _COULD_BE_METHOD.fullmatch(request):
            raise _Short
    except _Short:
        if len(data) >= FIRST_MOST:
            raise ValueError("its beginning is too long") from None
        return None
    return Found("other", frozenset())


def _names_of_request(data: bytes) -> frozenset[str]:
    end = re.search(rb"\r?\n\r?\n", data)
    if not end:
        raise _Short
    head = data[: end.end()]
    found = [match[1] for match in _HOST_LINE.finditer(head)]
    if absolute := _ABSOLUTE.match(head):
        found.append(absolute[1].rpartition(b"@")[2])
    return frozenset(bare(each.decode("latin-1")) for each in found)


def bare(text: str) -> str:
    """The name of a Host header, without a port."""
    host = re.sub(r":[0-9]*\Z", "", text.strip())
    try:
        return host_name(host)
    except (ValueError, UnicodeError):
        return host


def _names_of_hello(data: bytes) -> frozenset[str]:
    """RFC 8446, 4.1.2 and 5.1: a message can be in several records; RFC 6066, 3."""
    message = _message(data)
    at = 2 + 32
    at += 1 + _number(message, at, 1)
    at += 2 + _number(message, at, 2)
    at += 1 + _number(message, at, 1)
    if at == len(message):
        return frozenset()
    end = at + 2 + _number(message, at, 2)
    at += 2
    found = []
    while at < end:
        kind, size = _number(message, at, 2), _number(message, at + 2, 2)
        if kind == _SERVER_NAME:
            found += _server_names(message[at + 4 : at + 4 + size])
        at += 4 + size
    return frozenset(found)


def _message(data: bytes) -> bytes:
    """The body of the first message of the handshake."""
    message, at = b"", 0
    while True:
        if len(message) >= _MESSAGE:
            if message[0] != _CLIENT_HELLO:
                raise ValueError("TLS that does not begin with ClientHello")
            size = int.from_bytes(message[1:_MESSAGE], "big")
            if size > FIRST_MOST:
                raise ValueError("its ClientHello is too long")
            if len(message) >= _MESSAGE + size:
                return message[_MESSAGE : _MESSAGE + size]
        if len(data) < at + _RECORD:
            raise _Short
        size = int.from_bytes(data[at + 3 : at + _RECORD], "big")
        if data[at] != _HANDSHAKE or not size:
            raise ValueError("TLS with something else in its ClientHello")
        if len(data) < at + _RECORD + size:
            raise _Short
        message += data[at + _RECORD : at + _RECORD + size]
        at += _RECORD + size


def _server_names(data: bytes) -> list[str]:
    found, at = [], 2
    while at < len(data):
        kind, size = data[at], _number(data, at + 1, 2)
        if kind == _HOST:
            found.append(bare(data[at + 3 : at + 3 + size].decode("latin-1")))
        at += 3 + size
    return found


def _number(data: bytes, at: int, size: int) -> int:
    if len(data) < at + size:
        raise ValueError("its ClientHello is cut off")
    return int.from_bytes(data[at : at + size], "big")
