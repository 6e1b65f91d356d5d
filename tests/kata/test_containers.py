"""The library `pyvmm_kata`: the same containers as those of `pyvmm-oci`, with a machine that runs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE, Runtime, needs_namespaces

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kata" / "use_container.py"
BEGIN = """
import os, signal, sys
from pyvmm_kata import PIPE, Container
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.pod import sandbox
from tests.kata.fake_agent import boot_fake
sandbox.boot_vm = boot_fake
rootfs, config, root = sys.argv[1:4]
where = {"config": config, "root": root}
"""
Python = Callable[[str], str]


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """Runs a program that uses the library; what it prints."""
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "image").write_bytes(b"an image")
    (tmp_path / "kata.toml").write_text(f'image = "{tmp_path}/image"\nmemory = "64M"\n')

    def run(code: str) -> str:
        words = [str(tmp_path / "rootfs"), str(tmp_path / "kata.toml"), str(tmp_path / "state")]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/examples/kata", "TMPDIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", BEGIN + code, *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@needs_namespaces
def test_the_example(python: Python) -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 30
    lines = python(f"import runpy; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')").splitlines()
    assert lines[:2] == ["hello world", " ended with 3"]
    assert lines[2].startswith("paused ") and lines[2].endswith(" bytes")
    assert lines[3:] == ["a copy is running", "ended with 137"]


@needs_namespaces
def test_streams_and_statuses(python: Python, tmp_path: Path) -> None:
    code = """
command = ["/bin/sh", "-c", "cat; echo more >&2; exit 5"]
reader, writer = os.pipe()
os.write(writer, b"typed\\n"); os.close(writer)
with open(root + ".out", "wb") as out, open(root + ".err", "wb") as err:
    with Container.create(rootfs, command, name="c1", stdin=reader, stdout=out, stderr=err, **where) as one:
        assert one.status == "created"
        one.start()
        print(one.wait(60), one.wait())
print(open(root + ".out").read() + open(root + ".err").read(), end="")
print(os.path.exists(one.bundle), os.listdir(root))
"""
    assert python(code) == "5 5\ntyped\nmore\nFalse []\n"


@needs_namespaces
def test_a_terminal_and_its_size(python: Python) -> None:
    code = """
with Container.create(rootfs, ["sleep", "100"], **where) as container:
    container.start()
    words = ["sh", "-c", 'stty size; read line; until [ "$(stty size)" = "40 120" ]; do sleep 0.01; done; echo $line']
    with container.exec(words, stdin=PIPE, stdout=PIPE, terminal=(30, 100)) as process:
        assert process.stdout.read(64) == b"30 100\\r\\n"
        process.resize(40, 120)
        process.stdin.write(b"go\\n")
        assert b"".join(iter(lambda: process.stdout.read(64), b"")) == b"go\\r\\ngo\\r\\n"
        assert process.wait(10) == 0
"""
    python(code)


@needs_namespaces
def test_connections_to_ports_inside(python: Python) -> None:
    code = """
from tests.kata import fake_relay
fake_relay.install()
SERVER = (
    "import socket; listener = socket.create_server(('127.0.0.1', 0)); print(listener.getsockname()[1], flush=True)\\n"
    "while True: sock = listener.accept()[0]; sock.sendall(b'got ' + sock.recv(100)); sock.close()"
)
with Container.create(rootfs, ["sleep", "100"], **where) as container:
    container.start()
    with container.exec([sys.executable, "-c", SERVER], stdout=PIPE) as process:
        port = int(process.stdout.read(64))
        for word in (b"one", b"two"):
            with container.connect(port) as sock:
                sock.sendall(word)
                assert sock.recv(100) == b"got " + word and sock.recv(1) == b""
        for wrong, error in ((1, ConnectionRefusedError), (0, ConfigError), (65536, ConfigError)):
            try:
                container.connect(wrong)
                raise AssertionError(wrong)
            except error:
                pass
        process.kill()
"""
    python(code)


@needs_namespaces
def test_what_goes_on_from_a_checkpoint(python: Python) -> None:
    code = """
with Container.create(rootfs, ["sleep", "600"], name="c1", **where) as one:
    one.start()
    one.checkpoint(root + ".saved")
    with Container.restore(root + ".saved", one.bundle, name="c2", **where) as two:
        print(one.status, two.status, sorted(os.listdir(root))[-2:])
        again = Container("c2", **where)
        again.kill(signal.SIGTERM)
        two.wait(60)
        try:
            again.wait(60)
        except HostError as error:
            print(error)
    try:
        one.wait(0.01)
    except HostError as error:
        print(error)
"""
    assert python(code).splitlines() == [
        "running running ['c1', 'c2']",
        "container c2 has ended, and was made by another process",
        "container c1 has not ended in 0.01 s",
    ]


@needs_namespaces
def test_what_cannot_be(python: Python, tmp_path: Path) -> None:
    code = """
for work in (
    lambda: Container("nosuch", **where),
    lambda: Container.create(rootfs + "/none", ["true"], **where),
    lambda: Container.create(rootfs, ["true"], memory="much", **where),
    lambda: Container.create(rootfs, ["true"], stdout=PIPE, **where),
    lambda: Container.restore(rootfs, rootfs, **where),
):
    try:
        work()
    except ConfigError as error:
        print(error.code)
"""
    assert python(code).split() == ["container-missing", "image", "run-memory", "container-stream", "checkpoint-none"]
    assert not list(tmp_path.glob("pyvmm-container-*"))


@needs_namespaces
def test_the_command_line_sees_it(python: Python, tmp_path: Path) -> None:
    python("one = Container.create(rootfs, ['sleep', '600'], name='c1', **where); one.start()")
    runtime = Runtime(tmp_path)
    assert runtime.state("c1")["status"] == "running"
    assert runtime.check("exec", "c1", "echo", "works") == "works\n"
    runtime.check("delete", "--force", "c1")
