"""An Internet for tests: two network namespaces, the host of a sandbox and the outside, which records what arrives.

Run by ``unshare --net --mount``, with a program for the host's side: it gets :class:`Outside` as ``outside``.

The addresses of the outside are ones of the Internet, since rules treat others in another way.  No packet leaves the
two namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.server
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

HOST, HOST_6 = "93.184.0.1", "2606:2800::1"
SERVER, OTHER, DENIED, BY_ADDRESS, PRIVATE, RESOLVER = (
    *("93.184.0.10", "93.184.0.11", "93.184.0.66", "93.184.0.20"),
    *("10.9.0.3", "93.184.0.53"),
)
SERVER_6, BY_ADDRESS_6 = "2606:2800::10", "2606:2800::20"
PORTS = (80, 81, 443, 7000, 7001, 5353)
LARGE = "large.test"
"""A name whose answer is too large for a datagram."""
NAMES: dict[str, tuple[str, ...]] = {
    LARGE: (SERVER,) * 40,
    "good.test": (SERVER,),
    "other.test": (OTHER,),
    "evil.test": (OTHER,),
    "wild.test": (OTHER,),
    "sub.wild.test": (SERVER,),
    "six.test": (SERVER_6,),
    "private.test": (PRIVATE,),
    "to-denied.test": (DENIED,),
    "to-loopback.test": ("127.0.0.1",),
    "to-metadata.test": ("169.254.169.254",),
    "to-mapped.test": ("::ffff:127.0.0.1",),
    "to-host.test": (HOST,),
    "rebinds.test": (SERVER, DENIED),
}
"""What the resolver outside answers; the second address from the second answer on."""
MARK = (SERVER, 9999)
"""A datagram to there is after all packets that :meth:`Outside.arrived` reports."""
CLOSED = threading.Event()
"""The outside has closed the connection of a request for ``/last``; one for ``/behind`` waits for that."""
_MS_BIND = 4096


class Outside:
    """The host's side.

    :param folder: for its files: ``authority.pem`` is that of the servers' certificates
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        _certify(folder)
        self._bind("/etc/resolv.conf", f"nameserver {RESOLVER}\noptions timeout:5\n")
        self._bind("/etc/hosts", "127.0.0.1 localhost\n")
        self._process = subprocess.Popen(
            ["unshare", "--net", sys.executable, __file__, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask("begin")
        _ip("link set lo up", f"link add h0 type veth peer name o0 netns {self._process.pid}", "link set h0 up")
        _ip(f"addr add {HOST}/16 dev h0", f"addr add {HOST_6}/64 dev h0 nodad", "addr add 10.9.0.1/24 dev h0")
        _ip(f"route add default via {SERVER}", f"route add ::/0 via {SERVER_6}")
        self._ask("serve")

    def _bind(self, path: str, text: str) -> None:
        """Replace a file in this mount namespace."""
        made = os.path.join(self.folder, os.path.basename(path))
        Path(made).write_text(text)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(made.encode(), os.path.realpath(path).encode(), None, _MS_BIND, None):
            raise OSError(ctypes.get_errno(), path)

    def _ask(self, word: str) -> Any:
        assert self._process.stdin and self._process.stdout
        print(word, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def arrived(self) -> Any:
        """Since the last call: ``packets``, a list of [protocol, address, port] without those to the resolver; and
        ``names`` that it was asked for; ``requests`` of HTTP."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", MARK)
        return self._ask("arrived")

    def close(self) -> None:
        """End it."""
        with self._process as process:
            process.kill()


def _certify(folder: str) -> None:
    """Make an authority, and a certificate of all names but one."""
    names = ",".join(f"DNS:{name}" for name in NAMES if name != "other.test")
    for name, words in (
        ("authority", ["-subj", "/CN=tests"]),
        ("server", ["-subj", "/CN=server", "-CA", "authority.pem", "-CAkey", "authority.key"]),
    ):
        extension = "basicConstraints=critical,CA:TRUE" if name == "authority" else f"subjectAltName={names}"
        usage = "keyUsage=critical," + ("keyCertSign" if name == "authority" else "digitalSignature")
        words += ["-addext", usage, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-addext", extension]
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        subprocess.run([*command, *words], cwd=folder, check=True, capture_output=True)


def _ip(*commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


# -- the outside's process ---------------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the request; ``/echo`` also in a header."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        """Any method."""
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else b""
        if self.headers["Upgrade"]:
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\nfirst")
            self.wfile.write(self.rfile.read(5).swapcase())
            self.requests.append({"path": self.path, "headers": dict(self.headers), "body": ""})
            self.close_connection = True
            return
        if self.headers["Transfer-Encoding"] == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size + 2)[:size]
            self.rfile.readline()
        if self.path == "/last":
            self.close_connection = True  # and no header tells
        if self.path == "/behind":
            CLOSED.wait()
        found = {"path": self.path, "headers": dict(self.headers), "body": body.decode("latin-1")}
        self.requests.append(found)
        text = b"hello" if self.path.startswith("/quiet") else json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Echo", str(self.headers.get("Authorization")))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_HEAD = do_TRACE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Of IPv4 and IPv6."""

    address_family = socket.AF_INET6
    daemon_threads = True
    context: ssl.SSLContext | None = None

    def server_bind(self) -> None:
        """Take IPv4, too."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's thread."""
        with contextlib.suppress(OSError):
            if self.context is not None:
                request = self.context.wrap_socket(request, server_side=True)
            handler = Handler(request, client_address, self)
            request.close()
            if getattr(handler, "path", "") == "/last":
                CLOSED.set()


def _sniff(sock: socket.socket, seen: set[tuple[str, str, int]], marked: threading.Event) -> None:
    """Record all packets that this namespace gets."""
    while True:
        data, (name, protocol, kind, *_) = sock.recvfrom(1 << 16)
        if name != "o0" or kind == socket.PACKET_OUTGOING:
            continue
        if protocol == 0x0800:
            number, target, body = data[9], socket.inet_ntop(socket.AF_INET, data[16:20]), data[(data[0] & 15) * 4 :]
        elif protocol == 0x86DD:
            number, target, body = data[6], socket.inet_ntop(socket.AF_INET6, data[24:40]), data[40:]
        else:
            continue
        port = struct.unpack_from(">H", body, 2)[0] if number in (6, 17) else 0
        if (target, port) == MARK:
            marked.set()
        elif number not in (0, 2, 58) and (target, port) != (
            RESOLVER,
            53,
        ):  # group and neighbour messages of the kernel
            seen.add(({6: "tcp", 17: "udp"}.get(number, str(number)), target, port))


def _resolve(sock: socket.socket, asked: list[str]) -> None:
    counts: dict[str, int] = {}
    while True:
        query, client = sock.recvfrom(4096)
        sock.sendto(_answer(query, asked, counts, whole=False), client)


def _resolve_by_tcp(server: socket.socket, asked: list[str]) -> None:
    while True:
        with server.accept()[0] as sock, sock.makefile("rb") as queries:
            while size := queries.read(2):
                answer = _answer(queries.read(int.from_bytes(size, "big")), asked, {}, whole=True)
                sock.sendall(len(answer).to_bytes(2, "big") + answer)


def _answer(query: bytes, asked: list[str], counts: dict[str, int], *, whole: bool) -> bytes:
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1"))
        at += 1 + query[at]
    name, kind = ".".join(labels).lower(), query[at + 2]
    asked.append(name)
    addresses = NAMES.get(name, ())
    found: list[str] = []
    if addresses and kind == (28 if ":" in addresses[0] else 1):
        number = counts[name] = counts.get(name, -1) + 1
        found = [*addresses] if name == LARGE else [addresses[min(number, len(addresses) - 1)]]
    flags = 0x8180 if addresses else 0x8183
    if name == LARGE and not whole:
        flags, found = flags | 0x0200, []
    answer = b""
    for each in found:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in each else socket.AF_INET, each)
        answer += struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(packed)) + packed
    return query[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0) + query[12 : at + 5] + answer


def main() -> None:
    """The outside: answers each line with one of JSON."""
    folder = sys.argv[1]
    seen: set[tuple[str, str, int]] = set()
    asked: list[str] = []
    marked = threading.Event()
    for line in sys.stdin:
        if line == "serve\n":
            _ip(
                "link set lo up",
                "link set o0 up",
                *(f"addr add {SERVER_6[:-2]}{end}/64 dev o0 nodad" for end in (10, 20)),
            )
            _ip(*(f"addr add {each}/16 dev o0" for each in (SERVER, OTHER, DENIED, BY_ADDRESS, RESOLVER)))
            _ip(f"addr add {PRIVATE}/24 dev o0", "addr add 169.254.169.254/32 dev lo", f"route add default via {HOST}")
            for port in PORTS:
                server = Server(("::", port), Handler)
                if port == 443:
                    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    server.context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
                threading.Thread(target=server.serve_forever, daemon=True).start()
            packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
            threading.Thread(target=_sniff, args=(packets, seen, marked), daemon=True).start()
            resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            resolver.bind((RESOLVER, 53))
            threading.Thread(target=_resolve, args=(resolver, asked), daemon=True).start()
            by_tcp = socket.create_server((RESOLVER, 53))
            threading.Thread(target=_resolve_by_tcp, args=(by_tcp, asked), daemon=True).start()
        if line == "arrived\n":
            marked.wait()
            marked.clear()
        answer = {"packets": sorted(seen), "names": asked[:], "requests": Handler.requests[:]}
        if line == "arrived\n":
            for each in (seen, asked, Handler.requests):
                each.clear()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
