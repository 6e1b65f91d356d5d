"""Tries to reach what its arguments name, from inside of a sandbox, in each way there is; prints what worked.

Each argument is ``WAY ADDRESS PORT [TEXT]``.  It needs Python's standard library alone.
"""

from __future__ import annotations

import socket
import ssl
import struct
import sys

LIMIT = 20.0


def http(address: str, port: int, host: str) -> bytes:
    """A request, with a Host header of its own."""
    with socket.create_connection((address, port), LIMIT) as sock:
        sock.sendall(f"GET /quiet HTTP/1.1\r\nHost: {host or address}\r\nConnection: close\r\n\r\n".encode())
        return sock.recv(4096)


def tls(address: str, port: int, host: str) -> bytes:
    """A handshake, with a server name of its own."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((address, port), LIMIT) as sock,
        context.wrap_socket(sock, server_hostname=host or address) as end,
    ):
        return bytes(end.getpeercert(True) or b"")


def stream(address: str, port: int, text: str) -> bytes:
    """Something that is neither HTTP nor TLS: the server answers with an error."""
    with socket.create_connection((address, port), LIMIT) as sock:
        sock.sendall((text or "hello there\r\n\r\n").encode())
        return sock.recv(4096)


def half(address: str, port: int, host: str) -> bytes:
    """A request in pieces, whose Host comes late."""
    with socket.create_connection((address, port), LIMIT) as sock:
        for piece in ("GE", "T /quiet HT", "TP/1.1\r\nConnection: close\r\n", "Ho", f"st: {host}\r\n", "\r\n"):
            sock.sendall(piece.encode())
        return sock.recv(4096)


def cut(address: str, port: int, host: str) -> bytes:
    """A request that ends without its last line: Python's server takes the end for it."""
    with socket.create_connection((address, port), LIMIT) as sock:
        sock.sendall(f"GET /quiet HTTP/1.1\r\nConnection: close\r\nHost: {host}\r\n".encode())
        sock.shutdown(socket.SHUT_WR)
        return sock.recv(4096)


def odd(address: str, port: int, host: str) -> bytes:
    """A request with other spaces than those of the standard, which Python's server accepts."""
    with socket.create_connection((address, port), LIMIT) as sock:
        sock.sendall(f"GET\t/quiet HTTP/1.1 \r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return sock.recv(4096)


def udp(address: str, port: int, text: str, limit: float = 0.3) -> bytes:
    """A datagram."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(limit)
        sock.sendto(text.encode() or b"hello", (address, port))
        return sock.recv(4096)


def mapped(address: str, port: int, host: str) -> bytes:
    """As an IPv4-mapped address, from a socket of IPv6."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.settimeout(LIMIT)
        sock.connect((f"::ffff:{address}", port))
        sock.sendall(f"GET /quiet HTTP/1.1\r\nHost: {host or address}\r\nConnection: close\r\n\r\n".encode())
        return sock.recv(4096)


def ping(address: str, _port: int, _text: str) -> bytes:
    """An echo request, from a socket for it or a raw one."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP) as sock:
                sock.settimeout(0.3)
                sock.sendto(b"\x08\x00\xf7\xfe\x00\x01\x00\x00", (address, 0))
                return sock.recv(4096)
        except OSError:
            pass
    return b""


def _query(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def _resolved(answer: bytes) -> bytes:
    """What an answer has, besides its head and question; nothing: it has none."""
    return answer if int.from_bytes(answer[6:8], "big") else b""


def dns(address: str, port: int, name: str) -> bytes:
    """A query of a resolver's choice, for an address and for text."""
    return b"".join(_resolved(udp(address, port, _query(name, kind).decode("latin-1"), 2)) for kind in (1, 16, 28))


def dns_stream(address: str, port: int, name: str) -> bytes:
    """The same by TCP."""
    with socket.create_connection((address, port), LIMIT) as sock:
        query = _query(name, 16)
        sock.sendall(len(query).to_bytes(2, "big") + query)
        return _resolved(sock.recv(4096)[2:])


def main() -> None:
    """A line for each argument: whether it worked, and the error."""
    for words in sys.argv[1:]:
        way, address, port, text = [*words.split(" "), ""][:4]
        try:
            answer = globals()[way](address, int(port), text)
            print(words, "->", "reached" if answer else "nothing", flush=True)
        except OSError as error:
            print(words, "->", type(error).__name__, flush=True)


if __name__ == "__main__":
    main()
