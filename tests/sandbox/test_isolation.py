"""The sandbox library on the Sentry, which runs here without a machine: the same calls, with the same results."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE
from tests.sentry.small_root import make
from vmm import kvm_verdict

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts of a container need root"),
    pytest.mark.skipif(kvm_verdict().usable, reason="with KVM, the Sentry is the kernel of a machine"),
]
README = Path(__file__).parents[2] / "examples" / "sandbox" / "README.md"
BEGIN = """
import sys, time
from pyvmm_sandbox import *
rootfs, place = sys.argv[1:]
where = {"root": place + "/state"}
def raises(kind, call, *args, **options):
    try:
        call(*args, **options)
    except kind as error:
        return error
    raise AssertionError(f"no {kind}")
"""
Python = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("rootfs"))


@pytest.fixture
def python(rootfs: Path, tmp_path: Path) -> Python:
    """Runs a program that uses the library."""

    def run(code: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, str(rootfs), str(tmp_path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=rootfs.parent,
            env={**os.environ, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        )
        assert [name for name in os.listdir(tmp_path) if name.startswith("pyvmm-")] == []
        return done

    return run


def test_the_readme_runs_until_it_forks(python: Python, rootfs: Path) -> None:
    block = re.search("```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert block
    assert 'Sandbox("./rootfs", ' in block[1]
    code = block[1].replace("timeout=5", "timeout=60")  # 5 s are short for a host that runs other tests
    done = python(code.replace('Sandbox("./rootfs", ', f'Sandbox({str(rootfs)!r}, isolation="sentry", '))
    assert done.stdout == "42\n\nstdout 1\n\nstdout 2\n\nstdout 3\n\nexit \n", done.stderr
    assert "UsageError: a sandbox on the Sentry cannot be forked" in done.stderr.splitlines()[-1]


def test_the_calls_of_the_library(python: Python) -> None:
    """Where no KVM works, "auto" chooses the Sentry, and logs that once."""
    code = """
import logging
logging.basicConfig(level="INFO")
Sandbox(rootfs, **where).kill()
with Sandbox(rootfs, env={"A": "from the sandbox"}, **where) as box:
    assert box.isolation == "sentry"
    assert box.run("echo hi; echo err >&2; exit 3") == Result("hi\\n", "err\\n", 3)
    assert box.run(["cat"], stdin="typed").stdout == "typed"
    done = box.run("echo $A $B; pwd; id -u 2>/dev/null || readlink /proc/self", env={"B": "b"}, cwd="/tmp")
    assert done.stdout.startswith("from the sandbox b\\n/tmp\\n")
    assert box.run(["/none"]).exit_code == 127 and box.run("kill -9 $$").exit_code == 137
    error = raises(CommandTimeout, box.run, "echo begun; sleep 600 & setsid sleep 600 & sleep 600", timeout=1)
    assert error.result.stdout == "begun\\n"
    assert "sleep" not in box.run("cat /proc/[0-9]*/comm").stdout
    data = bytes(range(256)) * 8192
    box.files.write("/new/deep/data", data)
    assert box.files.read("/new/deep/data") == data
    assert [each.name for each in box.files.list("/new", depth=2)] == ["deep", "data"]
    raises(FileNotFoundError, box.files.read, "/none")
    box.files.download("/new", place + "/down")
    box.files.upload(place + "/down", "/up")
    assert open(place + "/down/deep/data", "rb").read() == box.files.read("/up/deep/data") == data
    with box.files.watch("/new") as watch:
        box.run("echo >/new/file")
        assert next(iter(watch)).path == "/new/file"
    with box.popen("read line; echo got $line; cat") as command:
        command.write("one\\n")
        assert next(iter(command)).text == "got one\\n"
        box.pause()
        box.resume()
        command.close_stdin()
        assert command.wait() == 0
    with box.popen("yes") as command:
        assert next(iter(command)).text.startswith("y\\ny\\n")
    box.files.remove("/new"), box.files.remove("/up")
    assert box.stats()
raises(SandboxGone, box.run, "true")
"""
    done = python(BEGIN + code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("INFO:pyvmm_sandbox:sandboxes run on the Sentry") and done.stderr.count("\n") == 1


def test_a_stored_image_is_unpacked_for_each_sandbox(python: Python) -> None:
    code = """
from pyvmm_kata.image_store import store
store.SYSTEM_STORE = place + "/store"
images = store.ImageStore()
images.add(rootfs, "debian:small")
with Sandbox("debian:small", **where) as first, Sandbox("debian:small", **where) as second:
    first.files.write("/etc/own", "first")
    assert first.files.read_text("/etc/own") == "first" and not second.files.exists("/etc/own")
    assert second.run("cat /usr/bin/sh | wc -c; echo $PATH").ok
    images.remove("debian:small")
    assert second.run("python3 -c 'print(6*7)'").stdout == "42\\n"
"""
    done = python(BEGIN + code)
    assert done.returncode == 0, done.stderr


def test_what_it_cannot_do_fails_before_anything_is_made(python: Python) -> None:
    code = """
import os
for call in (
    lambda: Sandbox(rootfs, isolation="none", **where),
    lambda: Template.build(place + "/template", rootfs, isolation="sentry", setup=["touch /set-up"], **where),
):
    print(raises(UsageError, call).hint)
assert not os.path.exists(place + "/state") and not os.path.exists(place + "/template")
with Sandbox(rootfs, isolation="sentry", name="mine", detach=True, timeout=None, **where) as box:
    same = Sandbox.connect("mine", **where)
    assert same.isolation == "sentry"
    for call in (box.fork, same.fork, lambda: box.snapshot(place + "/template")):
        assert raises(UsageError, call).hint
    assert box.run("true").ok and not os.path.exists(place + "/template")
"""
    done = python(BEGIN + code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '\nisolation="vm"\n'


def test_ports_lead_to_servers_inside(python: Python) -> None:
    """Without a network, and nothing is left of a connection."""
    code = """
import socket
def ask(sock, data):
    sock.sendall(data), sock.shutdown(socket.SHUT_WR)
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))
def relays():
    return box.run("cat /proc/[0-9]*/cmdline | tr '\\\\0' ' '").stdout.count("box relay")
with Sandbox(rootfs, network="none", **where) as box:
    box.files.write("/tmp/server.py", open(upper_server, "rb").read())
    begun = box.popen(["python3", "/tmp/server.py"])
    port = int(next(iter(begun)).text)
    with box.ports.connect(port) as sock:
        assert ask(sock, b"one") == b"ONE"
    with box.ports.forward(port) as forward:
        big = b"x" * (4 << 20)
        socks = [socket.create_connection((forward.host, forward.port)) for _ in range(5)]
        assert ask(socks[3], big) == big.upper() and ask(socks[1], b"two") == b"TWO"
    while relays():
        time.sleep(0.05)  # they end by themselves, and report nothing
    six = box.popen(["python3", "-c", SIX])
    with box.ports.connect(int(next(iter(six)).text)) as sock:
        assert sock.recv(9) == b"six"
    raises(ConnectionRefusedError, box.ports.connect, 1)
    raises(UsageError, box.ports.connect, 0), raises(UsageError, box.ports.forward, 70000)
    open_one = box.ports.connect(port)
    begun.close()
    assert open_one.recv(1) == b""
    box.kill()
    raises(SandboxGone, box.ports.connect, port)
"""
    six = "import socket; s = socket.create_server(('::1', 0), family=socket.AF_INET6); "
    six += "print(s.getsockname()[1], flush=True); c = s.accept()[0]; c.send(b'six'); c.close()"
    server = Path(__file__).with_name("upper_server.py")
    done = python(BEGIN + f"SIX = {six!r}\nupper_server = {str(server)!r}\n" + code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_network_of_its_own_and_a_published_port(python: Python) -> None:
    code = """
import urllib.request
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
with Sandbox(rootfs, network="user", ports=[f"{port}:80"], **where) as box:
    assert "eth0" in box.run("cat /proc/net/dev").stdout
    with box.popen(["python3", "-m", "http.server", "-d", "/etc", "80"]):
        while True:
            try:
                print(urllib.request.urlopen(f"http://127.0.0.1:{port}/").status)
                break
            except OSError:
                pass
"""
    done = python(BEGIN.replace("import sys,", "import socket, sys,") + code)
    assert (done.stdout, done.stderr) == ("200\n", "")
