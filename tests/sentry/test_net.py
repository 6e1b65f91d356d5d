"""Sockets for IPv4 and IPv6 behave as on Linux, over loopback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sentry.conftest import Compile

PYTHON = "/usr/bin/python3"

HTTP = """
import http.server, threading, urllib.request
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
server.RequestHandlerClass.log_message = lambda *words: None
threading.Thread(target=server.serve_forever, daemon=True).start()
for path in ("/etc/passwd", "/nonexistent"):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}") as answer:
            print(answer.status, answer.read() == open(path, "rb").read())
    except urllib.error.HTTPError as error:
        print(error.code)
server.shutdown()
"""
CONNECTIONS = """
import asyncio, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
async def main():
    async def serve(reader, writer):
        writer.write((await reader.readexactly(8)) * 2)
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1000)
    port = server.sockets[0].getsockname()[1]
    ends = [await asyncio.open_connection("127.0.0.1", port) for _ in range(1000)]
    for number, (_, writer) in enumerate(ends):
        writer.write(b"%08d" % number)
    print(sum([await reader.read() == b"%08d" % number * 2 for number, (reader, _) in enumerate(ends)]))
    for _, writer in ends:
        writer.close()
asyncio.run(main())
"""
STREAM = """
import hashlib, os, socket, threading
data = os.urandom(1 << 16) * 256
server = socket.create_server(("::1", 0), family=socket.AF_INET6)
def serve():
    end, _ = server.accept()
    end.sendall(data)
    end.shutdown(socket.SHUT_WR)
    print(end.recv(100))
threading.Thread(target=serve).start()
client = socket.create_connection(server.getsockname()[:2])
seen = hashlib.sha256()
while part := client.recv(99991):
    seen.update(part)
print(seen.digest() == hashlib.sha256(data).digest())
client.sendall(b"done")
client.close()
"""


def inside(*words: str, root: str = "/") -> subprocess.CompletedProcess[str]:
    """Run a program on the Sentry, with a directory of the host as its root."""
    command = [sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "ptrace", "--root", root, "--", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_calls_have_the_results_of_linux(platform: Path, compile_static: Compile) -> None:
    """About 350 results: addresses, ports, connections and their ends, options, datagrams, IPv6 and readiness."""
    program = compile_static("inet")
    native = subprocess.run([program, "alone"], capture_output=True, text=True, timeout=60)
    ours = subprocess.run([platform, "--", program], capture_output=True, text=True, timeout=60)
    assert native.returncode == ours.returncode == 0, native.stdout
    assert native.stdout.count("\n") > 340
    assert ours.stdout.splitlines() == native.stdout.splitlines()


@pytest.mark.parametrize(
    ("script", "output"),
    [(HTTP, "200 True\n404\n"), (CONNECTIONS, "1000\n"), (STREAM, "True\nb'done'\n")],
    ids=["http", "connections", "stream"],
)
def test_servers_and_clients_in_python(script: str, output: str) -> None:
    done = inside(PYTHON, "-c", script)
    assert (done.stdout, done.stderr, done.returncode) == (output, "", 0)
