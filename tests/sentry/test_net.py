"""Sockets for IPv4 and IPv6 behave as on Linux, over loopback."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sentry.conftest import Compile
from tests.sentry.hostile_net import HostileNet, dhcp, frames
from tests.sentry.small_root import PYTHON
from tests.sentry.test_command import ENVIRONMENT

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
SHORT = """
import socket
server = socket.create_server(("127.0.0.1", 0))
def connect(count):
    for _ in range(count):
        with socket.create_connection(server.getsockname()) as client:
            end, _ = server.accept()
            client.shutdown(socket.SHUT_WR)
            end.recv(1)
            end.close()
            client.recv(1)
    return next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemFree"))
free = connect(500)
print(free - connect(2000) < 500)
"""


def inside(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the host on the Sentry."""
    command = [sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "ptrace", "--", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT, cwd="/")


def test_calls_have_the_results_of_linux(platform: Path, compile_static: Compile) -> None:
    """About 350 results: addresses, ports, connections and their ends, options, datagrams, IPv6 and readiness."""
    program = compile_static("inet")
    native = subprocess.run([program, "alone"], capture_output=True, text=True, timeout=60)
    ours = subprocess.run([platform, "--", program], capture_output=True, text=True, timeout=60)
    assert native.returncode == ours.returncode == 0, native.stdout
    assert native.stdout.count("\n") > 340
    assert ours.stdout.splitlines() == native.stdout.splitlines()


def test_control_data_of_datagrams_is_that_of_linux(platform: Path, compile_static: Compile) -> None:
    """Where a datagram arrived, its hops and class; and UDP-Lite."""
    program = compile_static("datagrams")
    native = subprocess.run([program], capture_output=True, text=True, timeout=60)
    ours = subprocess.run([platform, "--", program], capture_output=True, text=True, timeout=60)
    assert native.returncode == ours.returncode == 0, native.stdout
    assert ours.stdout.splitlines() == native.stdout.splitlines()


@pytest.mark.parametrize(
    ("script", "output"),
    [(HTTP, "200 True\n404\n"), (CONNECTIONS, "1000\n"), (STREAM, "True\nb'done'\n"), (SHORT, "True\n")],
    ids=["http", "connections", "stream", "short-connections"],
)
def test_servers_and_clients_in_python(script: str, output: str) -> None:
    done = inside(PYTHON, "-c", script)
    assert (done.stdout, done.stderr, done.returncode) == (output, "", 0)


INTERFACES = """
import fcntl, socket, struct, subprocess
end = socket.socket()
def ask(command, name=b"lo"):
    try:
        return fcntl.ioctl(end, command, struct.pack("16s24x", name))[16:32].hex()
    except OSError as error:
        return error.strerror
print(socket.if_nameindex())
for command in (0x8913, 0x8915, 0x891B, 0x891D, 0x8921, 0x8927, 0x8933, 0x8942):
    print(hex(command), ask(command), ask(command, b"none"))
for host in ("localhost", "127.0.0.1", "::1"):
    print(sorted({row[4][0] for row in socket.getaddrinfo(host, 80, flags=socket.AI_ADDRCONFIG)}))
for words in ("-o link", "-o -4 addr", "route", "link show nosuch", "-br -4 addr"):
    print(words, subprocess.run(["ip", *words.split()], capture_output=True, text=True))
for name in ("tcp", "tcp6", "udp", "udp6", "if_inet6", "route", "dev"):
    print(open(f"/proc/net/{name}").read())
server = socket.create_server(("127.0.0.1", 80))
client = socket.create_connection(("127.0.0.1", 80))
other, (_, port) = server.accept()
client.send(b"abc")
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.bind(("::1", 53))
for name in ("tcp", "udp6"):
    rows = [line.replace(f":{port:04X}", ":PORT").split() for line in open(f"/proc/net/{name}")][1:]
    print(sorted(row[1:8] for row in rows))
"""


def test_interfaces_are_listed_as_on_linux() -> None:
    """By ioctl, netlink (as `ip` and the resolver use it) and /proc/net."""
    script = f'ip link set lo up && exec {PYTHON} -c "$0"'
    command = ["unshare", "--map-root-user", "--net", "sh", "-c", script, INTERFACES]
    native, ours = subprocess.run(command, capture_output=True, text=True, timeout=60), inside(PYTHON, "-c", INTERFACES)
    assert native.stdout.count("\n") > 30, native.stderr
    assert ours.stdout.splitlines() == native.stdout.splitlines()


OUTSIDE = """
import hashlib, http.server, os, subprocess, sys, threading
for words in ("link set lo up", "link add d0 type veth peer name d1", "addr add 10.9.0.2/24 dev d0",
              "addr add 10.9.0.3/32 dev lo", "link set d1 up", "link set d0 up", "route add default via 10.9.0.1"):
    subprocess.run(["ip", *words.split()], check=True)
data = os.urandom(1 << 20) * 4
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("10.9.0.3", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
command = [sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "ptrace", "--root", "none", "--network", "user",
           "--", "/bin/busybox", "wget", "-q", "-O", "-", f"http://10.9.0.3:{server.server_port}/"]
done = subprocess.run(command, capture_output=True, timeout=120)
print(done.returncode, len(done.stdout), done.stdout == data, done.stderr.decode())
"""


def test_a_server_on_the_host_is_reached_through_passt() -> None:
    """By a user without rights, in a network namespace with addresses of its own."""
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-c", OUTSIDE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=ENVIRONMENT)
    assert (done.stdout, done.stderr) == (f"0 {4 << 20} True \n", "")


@pytest.mark.parametrize("seed", range(3))
def test_malformed_frames_do_no_harm(platform: Path, seed: int) -> None:
    """2,000 frames, most of them wrong, from the process that serves the device."""
    device = HostileNet(64 << 20)
    words = ["--memory", "64", "--net", ",".join(map(str, device.fds)), "--", "/bin/busybox", "sh", "-c"]
    with subprocess.Popen(
        [platform, *words, "read line; echo $line"], pass_fds=device.fds, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        has_address, wanted = False, iter(frames(seed, 2000))
        frame = next(wanted, None)
        deadline = time.monotonic() + 60
        while frame is not None and process.poll() is None and time.monotonic() < deadline:
            select.select([device.fds[1], device.fds[2]], [], [], 0.01)
            while (sent := device.sent()) is not None:
                answer = dhcp(sent)
                if answer is not None:
                    has_address = device.receive(answer) or has_address
            while has_address and frame is not None and device.receive(frame):
                frame = next(wanted, None)
        assert frame is None
        process.stdin.write(b"alive\n")
        process.stdin.close()
        assert process.stdout.read() == b"alive\n"
        assert process.wait(60) == 0
    device.close()
