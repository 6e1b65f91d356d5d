"""Sandboxes on the nodes of a Ray cluster, with E2B's own client."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import (
    BuildException,
    CommandExitException,
    NotFoundException,
    Sandbox,
    SandboxException,
    SandboxState,
    Template,
    TimeoutException,
)
from e2b.exceptions import ServiceBusyException
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from pyvmm_server.settings import hash_of
from tests.kata.oci_runtime import eventually, needs_namespaces
from tests.sandbox.test_code import _end_programs_of as end_programs_of
from tests.server.conftest import Server
from tests.server.fake_node import host_of
from tests.server.ray_nodes import MIB, NODES, Cluster
from tests.server.test_proxy import Web

pytest.importorskip("ray")
pytestmark = [needs_namespaces, pytest.mark.long]  # a cluster takes 20 s to start


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
    _check_control(server, boxes[2], copy)
    other = next(box for box in boxes if placed[box.sandbox_id] != placed[copy.sandbox_id])
    answer = server.http("GET", f"/pyvmm/sandboxes/{copy.sandbox_id}/differences", params={"with": other.sandbox_id})
    assert answer.status_code == 501 and "two nodes" in answer.json()["message"]
    _check_websockets(server, boxes[3])
    for box in boxes:
        assert box.kill() and not box.is_running()


def _check_control(server: Server, box: Sandbox, copy: Sandbox) -> None:
    """What only the node of a sandbox has: its figures, log, console, processes and the steps of its start."""
    (figures,) = box.get_metrics()
    assert figures.mem_used > 0 and figures.mem_total > 0
    here = f"/sandboxes/{box.sandbox_id}"
    for path in (f"{here}/logs", f"/v2{here}/logs"):
        log = server.http("GET", path).json()
        found = [each["message"] for each in log.get("logEntries", log["logs"])]
        assert found[0] == "sandbox started" and "echo $NUMBER" in str(log), log
        assert server.http("GET", path, "e2b_1").status_code == 404
    assert server.http("GET", f"/pyvmm{here}/console").json()["text"] == ""
    assert server.http("GET", f"/pyvmm{here}/processes").json()["processes"]
    names = [each["name"] for each in server.http("GET", f"/pyvmm{here}/start").json()["phases"] if each["depth"]]
    assert len(names) > 1 and names[-1] == "ready for the server"
    query = {"with": copy.sandbox_id, "path": str(server.place / "rootfs")}
    found = server.http("GET", f"/pyvmm{here}/differences", params=query, timeout=60).json()
    assert found["files"] == [] and len(found["memory"]) == 2
    refused = server.http("PUT", f"{here}/network", json={"denyOut": ["1.1.1.1"]})
    assert refused.status_code == 400 and "rules" in refused.json()["message"], refused.text


def _check_websockets(server: Server, box: Sandbox) -> None:
    web = Web(server, box, "web_server.py")
    with web.connect("/a%20b?c=d") as client:
        assert client.recv() == "/a%20b?c=d the client []"
        for message in ("text", bytes(range(256)) * 4000):
            client.send(message)
            assert client.recv() == message
    relay = httpx.get(f"{server.url}/metrics").text
    assert "pyvmm_server_websockets 0.0" in relay
    with pytest.raises(InvalidStatus) as error:
        web.connect("/refused")
    assert (error.value.response.status_code, bytes(error.value.response.body)) == (403, b"not you")


def test_snapshots_and_builds(cluster: tuple[Server, Cluster]) -> None:
    """They are on the node that has made them, and other nodes fetch them."""
    server, _ = cluster
    box = Sandbox.create(envs={"KEPT": "kept"}, **server.client())
    origin = _nodes(server)[box.sandbox_id]
    made = box.create_snapshot("one", **server.client())
    assert _saved(server) == {origin: {made.snapshot_id}}
    again = Sandbox.create("one", **server.client())
    assert _nodes(server)[again.sandbox_id] == origin and again.commands.run("echo $KEPT").stdout == "kept\n"
    room = MIB // again.get_info().memory_mb - 2
    more = [Sandbox.create("one", **server.client()) for _ in range(room + 2)]  # the last two do not fit there
    placed = _nodes(server)
    elsewhere = [each for each in more if placed[each.sandbox_id] != origin]
    assert len(elsewhere) == 2
    assert [each.commands.run("echo $KEPT").stdout for each in more] == ["kept\n"] * len(more)
    assert set(_saved(server)) == {origin, *(placed[each.sandbox_id] for each in elsewhere)}
    for each in (box, again, *more):
        each.kill()

    place = server.place / "files" / "built"
    (server.place / "files" / "copied.txt").write_text("copied\n")
    lines: list[str] = []
    steps = (
        Template(file_context_path=server.place / "files")
        .from_template("base")
        .set_envs({"COLOR": "red"})
        .set_workdir(str(place))
        .copy("copied.txt", f"{place}/")
        .run_cmd("cat copied.txt; echo $COLOR > made")
    )
    Template.build(steps, "built", on_build_logs=lambda each: lines.append(each.message), **server.client())
    assert "copied" in lines
    with Sandbox.create("built", **server.client()) as made_of:
        assert made_of.commands.run("pwd; cat made; echo $COLOR").stdout == f"{place}\nred\nred\n"
    with pytest.raises(BuildException, match="exit status 3"):
        Template.build(Template().from_template("base").run_cmd("exit 3"), "bad", **server.client())
    assert server.http("DELETE", f"/templates/{made.snapshot_id}").status_code == 204
    assert server.http("DELETE", "/templates/built").status_code == 204
    assert _saved(server) == {}
    volume = server.http("POST", "/volumes", json={"name": "data"}).json()["name"]
    wanted = {"templateID": "base", "volumeMounts": [{"name": volume, "path": "/data"}]}
    refused = server.http("POST", "/v2/sandboxes", json=wanted)
    assert refused.status_code == 501 and "volume" in refused.json()["message"]


def _saved(server: Server) -> dict[str, set[str]]:
    """The saved sandboxes of each node that has some."""
    hosts = (server.place / "server" / "hosts").iterdir()
    found = {each.name: {saved.name for saved in each.glob("saved/*/*")} for each in hosts}
    names = set(_nodes(server).values())
    return {next((node for node in names if node.startswith(name)), name): ids for name, ids in found.items() if ids}


def test_a_paused_sandbox_moves_to_another_node(cluster: tuple[Server, Cluster]) -> None:
    """Two have room on each node.  A paused one is on disk: another gets its room, and it continues elsewhere."""
    server, _ = cluster
    server.stop()
    server.start("--engine", "ray", "--suspend-paused", "--memory", str(MIB // 2))
    boxes = [Sandbox.create(envs={"NUMBER": str(number)}, **server.client()) for number in range(2 * NODES)]
    moved, placed = boxes[0], _nodes(server)
    moved.pause()
    assert moved.get_info().state == SandboxState.PAUSED and moved.sandbox_id not in server.machines
    last = Sandbox.create(**server.client())
    assert _nodes(server)[last.sandbox_id] == placed[moved.sandbox_id]
    with pytest.raises(ServiceBusyException, match="MiB for another sandbox"):
        moved.connect()
    assert moved.get_info().state == SandboxState.PAUSED
    place = next(each for each in boxes if placed[each.sandbox_id] != placed[moved.sandbox_id])
    place.kill()
    assert moved.connect().commands.run("echo $NUMBER").stdout == "0\n"
    assert _nodes(server)[moved.sandbox_id] == placed[place.sandbox_id]
    assert _saved(server) == {}
    moved.pause()
    assert [len(names) for names in _saved(server).values()] == [1]
    server.stop(signal.SIGKILL)
    server.start()
    assert moved.get_info().state == SandboxState.PAUSED
    assert moved.connect().commands.run("echo $NUMBER").stdout == "0\n"
    moved.pause()
    assert moved.kill() and _saved(server) == {}
    for each in (last, *boxes[1:]):
        each.kill()


def test_a_relay_answers_its_server_alone(cluster: tuple[Server, Cluster]) -> None:
    """Nobody else reads a saved sandbox, opens a WebSocket, or names a client."""
    server, _ = cluster
    box = Sandbox.create(**server.client())
    made = box.create_snapshot("one", **server.client())
    state = _nodes(server)[box.sandbox_id]
    actor = (_host(server, state) / "nodes" / state[:16] / "actor").read_text().split()[0]
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    places = [line.split()[3] for line in listening if f"pid={actor}," in line]
    owner = {"x-pyvmm-owner": hash_of("e2b_0")}
    answers = {place: _status(f"http://{place}/pyvmm/saved/{made.snapshot_id}", owner) for place in places}
    (relay,) = [place for place, status in answers.items() if status == 403]
    for path in (f"/sandboxes/{box.sandbox_id}/logs", "/health", "/v2/sandboxes"):
        assert _status(f"http://{relay}{path}", {**owner, "x-pyvmm-relay": "wrong"}) == 403
    headers = {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": "1"}
    with pytest.raises(InvalidStatus) as error:
        connect(f"ws://{relay}/", proxy=None, additional_headers=headers)
    assert error.value.response.status_code == 404
    (folder,) = (path for path in server.states if path.name == f"e2b-{box.sandbox_id}")
    monitor = json.loads((folder / "state.json").read_text())["monitor"]
    status = Path(f"/proc/{monitor}/status").read_text()
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status, "the node has given nothing up"
    # The server itself believes no client that claims to be another
    log = server.http("GET", f"/sandboxes/{box.sandbox_id}/logs", "e2b_1", headers=owner)
    assert log.status_code == 404


def test_a_cluster_answers_who_has_its_token(cluster: tuple[Server, Cluster], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, neither a client of Ray nor another server runs anything on the nodes."""
    server, nodes = cluster
    program = "import ray; ray.init('auto', namespace='pyvmm'); print(ray.get(ray.remote(lambda: 'ran').remote()))"
    for token, works in ((nodes.environment["RAY_AUTH_TOKEN"], True), (secrets.token_hex(32), False)):
        environment = {**os.environ, **nodes.environment, "RAY_AUTH_TOKEN": token}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert ("ran" in done.stdout, done.returncode == 0) == (works, works), done.stdout + done.stderr
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    assert "no Ray cluster" in _refused(server.place / "other")


def _refused(state: Path) -> str:
    """What a server prints that does not start."""
    program = "import sys; from pyvmm_server.command import program; sys.exit(program())"
    command = [sys.executable, "-c", program, "--engine", "ray", "--state", str(state)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "hint" in done.stderr and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_a_cluster_without_a_choice_of_its_protection_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    refused = _refused(tmp_path)
    assert "RAY_AUTH_MODE is not set" in refused and "RAY_AUTH_MODE=token" in refused


def _status(url: str, headers: dict[str, str]) -> int:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, headers=headers, timeout=5).status_code
    return 0


def _host(server: Server, node: str) -> Path:
    return Path(host_of(str(server.place / "server"), node))


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


def test_a_paused_sandbox_is_lost_with_the_only_node_that_has_it(cluster: tuple[Server, Cluster]) -> None:
    server, nodes = cluster
    server.stop()
    server.start("--engine", "ray", "--suspend-paused")
    boxes = [Sandbox.create(envs={"NUMBER": str(number)}, **server.client()) for number in range(6)]
    placed = _nodes(server)
    for box in boxes:
        box.pause()
    assert server.machines == set()
    victim = placed[boxes[0].sandbox_id]
    gone = {each for each, node in placed.items() if node == victim}
    os.kill(nodes.keepers[victim], signal.SIGKILL)
    killed = time.monotonic()
    eventually(lambda: _lost(server) == gone, "the paused sandboxes of the node are not reported lost")
    print(f"paused ones reported lost after {time.monotonic() - killed:.1f} s")
    assert "lost with its node" in server.http("GET", f"/sandboxes/{boxes[0].sandbox_id}").json()["message"]
    with pytest.raises(NotFoundException):
        boxes[0].connect()
    for number, box in enumerate(boxes):
        if box.sandbox_id not in gone:
            assert box.connect().commands.run("echo $NUMBER").stdout == f"{number}\n"
        assert box.kill()
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
    pid = int((_host(server, node) / "nodes" / node[:16] / "actor").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: _answers(boxes[0]), "Ray does not start the actor again")
    assert _lost(server) == set() and server.machines == {box.sandbox_id for box in boxes}


def _answers(box: Sandbox) -> bool:
    try:
        return box.commands.run("echo on").stdout == "on\n"
    except SandboxException:
        return False
