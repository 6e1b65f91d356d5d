"""The gateway of a sandbox with network rules, and its resolver, after somebody has taken them over."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.pod import network
from tests.kata.oci_runtime import PATIENCE
from vmm.processes.jail import users

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft"),
]
CALLS: dict[str, tuple[int, ...]] = {
    "open": (2, 0, 0),
    "openat": (257, -100, 0, 1),  # O_WRONLY
    "socket": (41, 16, 3, 0),  # AF_NETLINK; see RAISED
    "bind": (49, 0, 0, 0),
    "listen": (50, 0, 1),
    "execve": (59, 0, 0, 0),
    "clone": (56, 17, 0, 0, 0, 0),
    "ptrace": (101, 0, 0, 0),
    "kill": (62, 1, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "unshare": (272, 0x10000000),
    "setns": (308, 3, 0),
    "setuid": (105, 0),
    "mmap": (9, 0, 4096, 7, 0x22, -1, 0),
    "mprotect": (10, 0, 4096, 4),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "io_uring_setup": (425, 1, 0),
    "recvmsg": (47, 0, 0, 0),
}
RESOLVERS = {"bind", "recvmsg"}
"""Calls that the resolver needs."""
HOOK = """
import ctypes, socket, sys
from pyvmm_sandbox.egress import gateway
libc = ctypes.CDLL(None)
numbers = [ctypes.c_long(int(word)) for word in sys.argv[4].split(",") if word]
def taken_over(*_, **__):
    if numbers:
        libc.syscall(*numbers)
    print("survived", file=sys.stderr, flush=True)
    return []
if sys.argv[3] == "gateway":
    gateway._Caller._answer = lambda *_: dict(enumerate(taken_over()))
else:
    socket.getaddrinfo = taken_over
gateway.main()
"""
QUERY = bytes.fromhex("123401000001000000000000") + b"\x04good\x04test\x00" + bytes.fromhex("00010001")


TRAFFIC = f"""
import os, select, socket, ssl, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from outside import *
from pyvmm_kata.pod.network import in_namespace
from pyvmm_sandbox.egress import client
from pyvmm_sandbox.egress.credentials import Secret, issue
from pyvmm_sandbox.egress.rules import Network
place = sys.argv[1]
outside = Outside(place)
outside._bind("/etc/hosts", f"{{SERVER}} two.test\\n{{SERVER_6}} two.test\\n")
os.environ["SSL_CERT_FILE"] = place + "/authority.pem"
rules = Network(allow=["good.test", "*.wild.test", "six.test", "two.test", LARGE, BY_ADDRESS, "to-host.test"])
env, credentials = issue({{"KEY": Secret("s3cret-value", hosts=["good.test", "*.wild.test"])}}, rules)
gateway = client.Started(rules, credentials, "test")
def connect(host, port):
    try:
        with socket.create_connection((host, port), timeout={PATIENCE}) as sock:
            sock.sendall(f"GET / HTTP/1.1\\r\\nHost: {{host}}\\r\\nConnection: close\\r\\n\\r\\n".encode())
            return sock.makefile("rb").readline()
    except ConnectionError:  # a refusal can come before connect() returns
        return b""
def secret(host):
    context = ssl.create_default_context(cafile=gateway.certificates)
    with context.wrap_socket(socket.create_connection((host, 443), timeout={PATIENCE}), server_hostname=host) as sock:
        words = (f"GET /for/{{host}} HTTP/1.1", f"Host: {{host}}", "X-Key: " + env["KEY"], "Connection: close",
                 f"Content-Length: {{8 << 20}}", "", "")
        sock.sendall("\\r\\n".join(words).encode() + bytes(8 << 20))
        with sock.makefile("rb") as answer:
            line = answer.readline()
            assert len(answer.read()) > 8 << 20
            return line
def query(name):
    body = bytes.fromhex("123401000001000000000000")
    body += b"".join(bytes([len(each)]) + each.encode() for each in name.split(".")) + bytes.fromhex("0000010001")
    with socket.create_connection((RESOLVER, 53), timeout={PATIENCE}) as sock:
        sock.sendall(len(body).to_bytes(2, "big") + body)
        return sock.recv(4096)[-4:]
def inside():
    assert query("good.test")[:2] == query("two.test")[:2] == query(LARGE)[:2] == bytes((198, 18))
    assert connect("six.test", 80) == connect(BY_ADDRESS, 80) == b"HTTP/1.1 200 OK\\r\\n"
    assert secret("good.test") == secret("sub.wild.test") == b"HTTP/1.1 200 OK\\r\\n"
    assert connect(OTHER, 80) == connect("to-host.test", 80) == b""
in_namespace(gateway.namespace, inside)
assert client.ask(gateway.folder, {{}})["counts"]["refused"] == 2
requests = outside.arrived()["requests"]
assert [each["headers"].get("X-Key") for each in requests] == [None, None, "s3cret-value", "s3cret-value"], requests
child = os.fork()
if not child:
    os.read(0, 1)
    os._exit(0)
end = os.pidfd_open(int(gateway.namespace.split("/")[2]))
gateway.follow(child)
os.kill(child, 9)
select.select([end], [], [], {PATIENCE})[0].pop()
client.remove(gateway.folder)
assert not [name for name in os.listdir(place) if name.startswith("pyvmm-")]
outside.close()
"""


class Taken:
    """A gateway in which a function is replaced by a system call."""

    def __init__(self, who: str, numbers: tuple[int, ...], folder: Path) -> None:
        self.connection, theirs = socket.socketpair()
        self.connection.settimeout(PATIENCE)
        words = [str(theirs.fileno()), str(folder), who, ",".join(map(str, numbers))]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HOOK, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=[theirs.fileno()],
            )
        rules = {"allow": ["good.test"], "deny": [], "default": "deny"}
        answer = self.send({"rules": rules, "credentials": []})
        assert "pid" in answer, answer
        self.pid, self.namespace = int(answer["pid"]), f"/proc/{answer['pid']}/fd/{answer['namespace']}"

    def send(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Empty: it has ended."""
        self.connection.sendall(json.dumps(wanted).encode() + b"\n")
        with self.connection.makefile("rb") as lines:
            return dict(json.loads(lines.readline() or b"{}"))

    def ask(self) -> None:
        """Have it look up a name."""

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(QUERY, ("127.0.0.1", 53))

        network.in_namespace(self.namespace, send)

    def resolver(self) -> int:
        """Its process number."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text())

    def close(self) -> str:
        """End it; what it and its resolver have written."""
        self.connection.close()
        with self.process:
            assert self.process.stderr
            return self.process.stderr.read()


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Taken]:
    taken = Taken("gateway", (), tmp_path)
    yield taken
    taken.close()


@pytest.mark.parametrize("call", CALLS)
def test_a_gateway_that_makes_another_call_ends(tmp_path: Path, call: str) -> None:
    taken = Taken("gateway", CALLS[call], tmp_path)
    assert taken.send({}) == {}
    assert f"tried the system call {call} (" in (text := taken.close()) and "survived" not in text


@pytest.mark.parametrize("call", sorted(CALLS.keys() - RESOLVERS))
def test_a_resolver_that_makes_another_call_ends(tmp_path: Path, call: str) -> None:
    """And the gateway does not: names do not exist any more."""
    numbers = (41, 17, 3, 0) if call == "socket" else CALLS[call]  # AF_PACKET
    taken = Taken("resolver", numbers, tmp_path)
    taken.ask()
    resolver = os.pidfd_open(taken.resolver())
    try:
        assert select.select([resolver], [], [], PATIENCE)[0], "it lives"
    finally:
        os.close(resolver)
    assert Path(f"/proc/{taken.pid}").exists()
    assert f"tried the system call {call} (" in (text := taken.close()) and "survived" not in text


def test_a_call_that_is_listed_is_made(tmp_path: Path) -> None:
    """So the tests above see the list and no other fault."""
    taken = Taken("gateway", (39,), tmp_path)
    taken.send({})
    assert taken.close() == "survived\n"


def test_traffic_of_each_kind_needs_listed_calls_alone(tmp_path: Path) -> None:
    """Names by both protocols, streams, TLS with certificates that are made meanwhile, refusals; then its end."""
    done = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, "-c", TRAFFIC, str(tmp_path)],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: " ".join(rest.split()) for name, _, rest in (line.partition(":") for line in lines)}


def test_what_both_processes_have(untouched: Taken) -> None:
    """No capabilities, no privileges to gain, users that nobody else has, few descriptors, no files."""
    owners = set()
    for pid in (untouched.pid, untouched.resolver()):
        for task in Path(f"/proc/{pid}/task").iterdir():
            status = _status(int(task.name))
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), status
            assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
            assert status["Groups"] == ""
            assert len(set(status["Uid"].split() + status["Gid"].split())) == 1
            owners.add(int(status["Uid"].split()[0]))
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert "Max core file size        0                    0" in limits
        assert os.stat(f"/proc/{pid}/fd").st_uid == 0, "it is dumpable"
    assert len(owners) == 2 and all(users.FIRST <= each < users.FIRST + users.COUNT for each in owners)


def test_the_descriptors_and_files_of_both(untouched: Taken) -> None:
    def files(pid: int) -> list[str]:
        found = (os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir())
        return sorted(each for each in found if not each.startswith(("socket:", "anon_inode:[eventpoll]")))

    kept = ["/dev/null", "/dev/null", "/run/pyvmm/users"]
    pipe = [each for each in files(untouched.pid) if each.startswith("pipe:")]  # stderr, which the tests read
    assert len(pipe) == 1
    gateway = [each for each in files(untouched.pid) if not each.startswith("net:[")]
    assert gateway == sorted([*kept, *pipe, "/scratch"]), "and the namespace of its sandbox"
    assert files(untouched.resolver()) == sorted([*kept, *pipe])
    assert os.listdir(f"/proc/{untouched.pid}/root") == ["scratch"]
    assert os.stat(f"/proc/{untouched.pid}/root/scratch").st_size == 0
    assert len(os.listdir(f"/proc/{untouched.resolver()}/fd")) == 5
    for kind in ("mnt", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{untouched.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind


def test_both_end_with_the_library(tmp_path: Path) -> None:
    taken = Taken("gateway", (), tmp_path)
    fds = [os.pidfd_open(pid) for pid in (taken.pid, taken.resolver())]
    taken.close()
    for fd in fds:
        assert select.select([fd], [], [], PATIENCE)[0]
        os.close(fd)
