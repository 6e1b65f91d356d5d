"""The command that containerd calls: `start` and `delete`, and what it prints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm_kata import protobuf, ttrpc
from pyvmm_kata.protobuf import Message
from pyvmm_kata.shim.bootstrap import Arguments, Place
from pyvmm_kata.shim.main import main
from pyvmm_kata.state import is_alive
from tests.kata.containerd import need
from tests.kata.fake_guest import write_shim

PATIENCE = 60.0


class Caller:
    """Calls the shim as containerd does: in the bundle, and with its environment."""

    def __init__(self, folder: Path) -> None:
        write_shim(folder)
        self.folder = folder
        self.address = str(folder / "containerd.sock")
        self.places: list[Place] = []

    def bundle(self, task_id: str, pod: str = "") -> Path:
        path = self.folder / task_id
        (path / "rootfs").mkdir(parents=True)
        annotations = {"io.kubernetes.cri.sandbox-id": pod} if pod else {}
        spec = {
            "ociVersion": "1.1.0",
            "root": {"path": "rootfs"},
            "process": {"args": ["sleep"], "cwd": "/"},
            "linux": {"namespaces": [{"type": "network"}]},
            "annotations": annotations,
        }
        (path / "config.json").write_text(json.dumps(spec))
        os.mkfifo(path / "log")
        self.places.append(Place.of(Arguments(task_id, "test", self.address, str(path), "", 2)))
        return path

    def call(self, task_id: str, action: str, version: str = "2") -> subprocess.CompletedProcess[bytes]:
        bundle = self.folder / task_id
        flags = ["-namespace", "test", "-address", self.address, "-publish-binary", "/bin/true", "-id", task_id]
        flags += ["-bundle", str(bundle)] if action == "delete" else []
        return subprocess.run(
            [self.folder / "containerd-shim-fake-v2", *flags, action],
            cwd=bundle,
            env={**os.environ, "MAX_SHIM_VERSION": version, "TTRPC_ADDRESS": ""},
            input=b"",
            capture_output=True,
            timeout=PATIENCE,
        )

    def start(self, task_id: str, version: str = "2") -> str:
        done = self.call(task_id, "start", version)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    def pid(self, place: Place) -> int:
        """The shim's number, once it has written it; 0 when it does not live."""
        try:
            pid, began = (int(word) for word in (Path(place.folder) / "pid").read_text().split())
        except (OSError, ValueError):
            return 0
        return pid if is_alive(pid, began) else 0


@pytest.fixture
def caller() -> Iterator[Caller]:
    need()
    with tempfile.TemporaryDirectory(prefix="shim") as name:
        made = Caller(Path(name))
        try:
            yield made
        finally:
            for place in made.places:
                place.kill()


def connect(address: str) -> ttrpc.Client:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address.removeprefix("unix://"))
    return ttrpc.Client(sock, "the shim")


def task(client: ttrpc.Client, method: str, kind: str, version: str = "v2", **fields: object) -> Message:
    package = f"containerd.task.{version}"
    return client.call(f"{package}.Task", method, protobuf.message(f"{package}.{kind}")(**fields), PATIENCE)


def parse_delete(done: subprocess.CompletedProcess[bytes]) -> Message:
    assert (done.returncode, done.stderr) == (0, b"")
    return protobuf.parse(protobuf.message("containerd.task.v2.DeleteResponse"), done.stdout)


def test_the_address_alone_for_containerd_before_2(caller: Caller) -> None:
    bundle = caller.bundle("c1")
    address = caller.start("c1")
    assert address == f"unix://{caller.places[0].socket}"
    assert (bundle / "address").read_text() == address
    client = connect(address)
    connected = task(client, "Connect", "ConnectRequest", id="c1")
    assert connected.shim_pid == caller.pid(caller.places[0])


def test_json_for_containerd_2(caller: Caller) -> None:
    caller.bundle("c1")
    answer = json.loads(caller.start("c1", version="3"))
    assert answer == {"version": 3, "address": f"unix://{caller.places[0].socket}", "protocol": "ttrpc"}
    client = connect(answer["address"])
    assert task(client, "Connect", "ConnectRequest", version="v3", id="c1").shim_pid > 0


def test_containers_of_a_pod_have_one_shim(caller: Caller) -> None:
    for task_id, pod in (("c1", "p1"), ("c2", "p1"), ("c3", "p2")):
        caller.bundle(task_id, pod)
    addresses = [caller.start(task_id) for task_id in ("c1", "c2", "c3")]
    assert addresses[0] == addresses[1] != addresses[2]


def test_shutdown_leaves_nothing(caller: Caller) -> None:
    caller.bundle("c1")
    client = connect(caller.start("c1"))
    task(client, "Create", "CreateTaskRequest", id="c1", bundle=str(caller.folder / "c1"))
    task(client, "Delete", "DeleteRequest", id="c1")
    pid = caller.pid(caller.places[0])
    task(client, "Shutdown", "ShutdownRequest", id="c1")
    deadline = time.monotonic() + PATIENCE
    while os.path.exists(caller.places[0].folder) or os.path.exists(f"/proc/{pid}/exe"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_delete_after_the_shim_was_killed(caller: Caller) -> None:
    caller.bundle("c1")
    client = connect(caller.start("c1"))
    task(client, "Create", "CreateTaskRequest", id="c1", bundle=str(caller.folder / "c1"))
    caller.places[0].kill()
    assert parse_delete(caller.call("c1", "delete")).exit_status == 137
    assert not os.path.exists(caller.places[0].folder)


def test_delete_spares_the_other_containers_of_a_pod(caller: Caller) -> None:
    for task_id in ("c1", "c2"):
        caller.bundle(task_id, "p1")
        client = connect(caller.start(task_id))
        task(client, "Create", "CreateTaskRequest", id=task_id, bundle=str(caller.folder / task_id))
        task(client, "Start", "StartRequest", id=task_id)
    parse_delete(caller.call("c1", "delete"))
    with pytest.raises(ttrpc.RpcError, match="NOT_FOUND"):
        task(client, "State", "StateRequest", id="c1")
    assert task(client, "State", "StateRequest", id="c2").pid > 0


def test_delete_kills_a_shim_that_hangs(caller: Caller) -> None:
    caller.bundle("c1")
    connect(caller.start("c1"))
    pid = caller.pid(caller.places[0])
    os.kill(pid, signal.SIGSTOP)
    parse_delete(caller.call("c1", "delete"))
    assert not os.path.exists(caller.places[0].folder)
    assert caller.pid(caller.places[0]) == 0


def test_delete_of_what_was_never_there(caller: Caller) -> None:
    caller.bundle("c1")
    assert parse_delete(caller.call("c1", "delete")).exit_status == 137


@pytest.mark.parametrize(
    "words, problem",
    [
        ([], "usage:"),
        (["-id"], "-id has no value"),
        (["-frobnicate", "x", "start"], "-frobnicate is not known"),
        (["-namespace", "n", "-id", "a/b", "start"], "not the id of a container"),
        (["-id", "a", "start"], "-namespace is missing"),
        (["-namespace", "n", "-id=a", "stop"], "'stop' is no action"),
        (["-namespace", "n", "-id", "a", "start", "more"], "'more' is too much"),
    ],
)
def test_wrong_command_lines(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert problem in said.err
    assert len(said.err.splitlines()) == 1


def test_the_program_finds_its_python_through_a_link(tmp_path: Path) -> None:
    folder, other = tmp_path / "prefix" / "bin", tmp_path / "local"
    packages = tmp_path / "prefix" / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    for path in (folder, other, packages):
        path.mkdir(parents=True)
    root = Path(__file__).resolve().parents[2]
    shutil.copy(root / "examples/kata/bin/containerd-shim-pyvmm-v2", folder)
    (folder / "python3").symlink_to(os.path.realpath(sys.executable))
    (packages / "vmm").symlink_to(root / "vmm")
    (packages / "pyvmm_kata").symlink_to(root / "examples/kata/pyvmm_kata")
    link = other / "containerd-shim-pyvmm-v2"
    link.symlink_to(folder / "containerd-shim-pyvmm-v2")
    (other / "python3").symlink_to("/bin/false")
    for program in (link, folder / "containerd-shim-pyvmm-v2"):
        done = subprocess.run([str(program), "-id"], capture_output=True, text=True)
        assert (done.returncode, "-id has no value" in done.stderr) == (1, True), done.stderr
