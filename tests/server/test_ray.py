"""Sandboxes on the nodes of a Ray cluster, with E2B's own client."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import (
    CommandExitException,
    NotFoundException,
    Sandbox,
    SandboxException,
    SandboxState,
    TimeoutException,
)

from tests.kata.oci_runtime import PATIENCE, eventually, needs_namespaces
from tests.sandbox.test_code import _end_programs_of as end_programs_of
from tests.server.conftest import ROOT, Server

pytest.importorskip("ray")
pytestmark = [needs_namespaces, pytest.mark.long]  # a cluster takes 20 s to start
NODES, MIB = 3, 4096


class Cluster:
    """A head and nodes of this host, in processes of their own.

    :ivar keepers: the main process of each node
    """

    def __init__(self, server: Server) -> None:
        packages = ("", "examples/kata", "examples/sandbox", "examples/server")
        self.environment = {
            "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in packages),
            "PYVMM_FAKE_KERNELS": server.kernels.name,
            "RAY_TMPDIR": server.kernels.name,  # sockets need short paths
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        command = [sys.executable, str(Path(__file__).with_name("ray_cluster.py")), str(NODES), str(MIB)]
        with open(server.place / "ray.log", "wb") as log:
            environment = {**os.environ, **self.environment}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"{"):
                break
        else:
            raise AssertionError((server.place / "ray.log").read_text()[-3000:])
        found = json.loads(line)
        self.environment["RAY_ADDRESS"] = found["address"]
        self.keepers: dict[str, int] = found["keepers"]

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Cluster]]:
    """A server on the nodes of a cluster."""
    server = Server(tmp_path)
    cluster = Cluster(server)
    try:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        server.start("--engine", "ray")
        yield server, cluster
        server.end()
    finally:
        if server.process is not None:
            server.process.kill()
            server.process.wait()
        cluster.close()
        with server.kernels:
            end_programs_of(server.kernels.name)


def _nodes(server: Server) -> dict[str, str]:
    """The node of each sandbox."""
    with contextlib.closing(sqlite3.connect(server.place / "server" / "server.db")) as db:
        return dict(db.execute("SELECT id, node FROM sandboxes"))


def _lost(server: Server) -> set[str]:
    return {each["sandboxID"] for each in server.http("GET", "/v2/sandboxes?state=lost").json()}


def test_sandboxes_on_three_nodes(cluster: tuple[Server, Cluster]) -> None:
    server, _ = cluster
    boxes = [Sandbox.create(envs={"NUMBER": str(number)}, **server.client()) for number in range(9)]
    assert set(_nodes(server).values()) == set(cluster[1].keepers)
    for number, box in enumerate(boxes):
        assert box.is_running()
        assert box.commands.run("echo $NUMBER").stdout == f"{number}\n"
        box.files.write(f"{server.place}/files/{number}", f"file {number}")
        assert box.files.read(f"{server.place}/files/{number}") == f"file {number}"
    lines: list[str] = []
    boxes[0].commands.run("echo one; echo two", on_stdout=lines.append)
    assert "".join(lines) == "one\ntwo\n"
    with pytest.raises(CommandExitException) as error:
        boxes[0].commands.run("exit 3")
    assert error.value.exit_code == 3
    boxes[1].pause()
    assert boxes[1].get_info().state == SandboxState.PAUSED
    assert boxes[1].connect().commands.run("echo on").stdout == "on\n"
    (copy,) = boxes[2].fork()
    assert isinstance(copy, Sandbox)
    assert copy.commands.run("echo $NUMBER").stdout == "2\n"
    placed = _nodes(server)
    assert placed[copy.sandbox_id] == placed[boxes[2].sandbox_id], "a fork is beside its parent"
    answer = server.http("POST", f"/sandboxes/{boxes[0].sandbox_id}/snapshots", json={})
    assert answer.status_code == 501 and "another node" in answer.json()["message"]
    for box in boxes:
        assert box.kill() and not box.is_running()


def test_a_node_that_is_killed(cluster: tuple[Server, Cluster]) -> None:
    server, nodes = cluster
    boxes = {box.sandbox_id: box for box in (Sandbox.create(**server.client()) for _ in range(9))}
    placed = _nodes(server)
    victim = placed[next(iter(boxes))]
    gone = {each for each in boxes if placed[each] == victim}
    os.kill(nodes.keepers[victim], signal.SIGKILL)
    killed = time.monotonic()
    later = [Sandbox.create(**server.client()) for _ in range(3)]  # also before the server knows that it is lost
    eventually(lambda: _lost(server) == gone, "the sandboxes of the node are not reported lost")
    print(f"reported lost after {time.monotonic() - killed:.1f} s")
    for each in gone:
        assert not boxes[each].is_running()
        with pytest.raises(NotFoundException):
            boxes[each].get_info()
        assert "lost with its node" in server.http("GET", f"/sandboxes/{each}").json()["message"]
        with pytest.raises((TimeoutException, NotFoundException)):
            boxes[each].commands.run("echo on")
    eventually(lambda: not server.machines & gone, "the fence does not end the sandboxes of the node")
    later += [Sandbox.create(**server.client()) for _ in range(3)]
    placed = _nodes(server)
    assert victim not in {placed[box.sandbox_id] for box in later}
    for box in [*(boxes[each] for each in set(boxes) - gone), *later]:
        assert box.commands.run("echo on").stdout == "on\n"
    for each in gone:
        assert boxes[each].kill()
    assert _lost(server) == set()


def test_a_server_and_an_actor_that_are_killed(cluster: tuple[Server, Cluster]) -> None:
    server, _ = cluster
    boxes = [Sandbox.create(metadata={"a": "b"}, **server.client()) for _ in range(4)]
    boxes[0].pause()
    server.stop(signal.SIGKILL)
    server.start()
    assert boxes[0].get_info().state == SandboxState.PAUSED
    boxes[0].connect()
    for box in boxes:
        assert box.is_running() and box.get_info().metadata == {"a": "b"}
        assert box.commands.run("echo on").stdout == "on\n"
    node = _nodes(server)[boxes[0].sandbox_id]
    pid = int((server.place / "server" / "nodes" / node[:16] / "actor").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: _answers(boxes[0]), "Ray does not start the actor again")
    assert _lost(server) == set() and server.machines == {box.sandbox_id for box in boxes}


def _answers(box: Sandbox) -> bool:
    try:
        return box.commands.run("echo on").stdout == "on\n"
    except SandboxException:
        return False
