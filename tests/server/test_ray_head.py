"""The head of a Ray cluster that is killed and started again, with what it knew in Redis and without."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import Sandbox

from tests.kata.oci_runtime import eventually, needs_namespaces
from tests.server.conftest import Server, free_port, killed_at_last
from tests.server.ray_nodes import MIB, Cluster

pytest.importorskip("ray")
pytestmark = [needs_namespaces, pytest.mark.long]  # a cluster takes 20 s to start
NODES = 2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with killed_at_last(Server(tmp_path)) as server:
        yield server


def _begun(server: Server, monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[Cluster, list[Sandbox]]:
    """A server that runs, with sandboxes.  The head has been killed since."""
    nodes = Cluster(server, MIB, NODES, None, **environment)
    for name, value in nodes.environment.items():
        monkeypatch.setenv(name, value)
    server.start("--engine", "ray")
    boxes = [Sandbox.create(envs={"NUMBER": str(number)}, **server.client()) for number in range(4)]
    boxes[0].pause()
    nodes.head("kill")
    boxes.append(Sandbox.create(envs={"NUMBER": "4"}, **server.client()))  # nobody needs the head for that
    boxes[0].connect()
    _check(boxes)
    return nodes, boxes


def _check(boxes: list[Sandbox]) -> None:
    for number, box in enumerate(boxes):
        assert box.commands.run("echo $NUMBER").stdout == f"{number}\n"


def test_a_head_that_kept_what_it_knew(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cluster goes on, and so does the server."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        nodes, boxes = _begun(server, monkeypatch, RAY_REDIS_ADDRESS=f"127.0.0.1:{port}")
        nodes.head("start")
        assert server.process is not None and server.process.poll() is None
        boxes.append(Sandbox.create(envs={"NUMBER": "5"}, **server.client()))
        _check(boxes)
        server.stop()
        server.start()
        _check(boxes)
        boxes.append(Sandbox.create(envs={"NUMBER": "6"}, **server.client()))
        _check(boxes)
        assert server.http("GET", "/v2/sandboxes?state=lost").json() == []
        server.end()
        nodes.close()
    finally:
        redis.kill()
        redis.wait()


def test_a_head_that_knows_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends its nodes and the server.  The sandboxes end with their nodes, and the next server reports them lost."""
    nodes, boxes = _begun(server, monkeypatch)
    before = server.process
    assert before is not None
    nodes.head("start")
    eventually(lambda: before.poll() is not None, "Ray does not end the server")
    eventually(lambda: server.machines == set(), "the fence does not end the sandboxes")
    assert not any(os.path.exists(f"/proc/{each}/exe") for each in nodes.keepers.values())
    nodes.close()
    after = Cluster(server, MIB, NODES, nodes)
    server.process = None
    begun = time.monotonic()
    server.start()
    print(f"the next server answers after {time.monotonic() - begun:.1f} s")
    ids = {box.sandbox_id for box in boxes}
    lost = "/v2/sandboxes?state=lost"
    eventually(
        lambda: {each["sandboxID"] for each in server.http("GET", lost).json()} == ids, "they are not reported lost"
    )
    print(f"reported lost {time.monotonic() - begun:.1f} s after its start")
    last = Sandbox.create(envs={"NUMBER": "0"}, **server.client())
    _check([last])
    for box in boxes:
        assert box.kill()
    assert server.http("GET", lost).json() == []
    server.end()
    after.close()
