"""kill -9 of the parts of a server with many nodes, at random, under clients: what they were promised holds."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import Sandbox, SandboxInfo
from e2b.exceptions import SandboxUnreachableException, ServiceBusyException

from tests.kata.oci_runtime import PATIENCE, eventually, needs_namespaces
from tests.sandbox.test_code import _end_programs_of as end_programs_of
from tests.server.busy_clients import EITHER, Client
from tests.server.conftest import Server, free_port
from tests.server.postgres_server import PROGRAMS, PostgresServer
from tests.server.ray_nodes import Cluster

pytest.importorskip("ray")
pytest.importorskip("psycopg")
pytestmark = [
    needs_namespaces,
    pytest.mark.skipif(not PROGRAMS, reason="no PostgreSQL"),
    pytest.mark.long,  # a cluster takes 20 s to start
]
KILLS = int(os.environ.get("PYVMM_TEST_KILLS", "100"))
_CHECKED = 10
"""Kills after which everything is checked."""


class Parts:
    """What can be killed.

    :param seed: of the choice and of the moment
    """

    def __init__(self, server: Server, nodes: Cluster, database: PostgresServer, seed: int) -> None:
        self.server, self._nodes, self._database = server, nodes, database
        self.options = ["--engine", "ray", "--state", database.url]
        self.rng = random.Random(seed)
        self.clients = [Client(server, name, random.Random(f"{seed}{name}")) for name in "abc"]
        self.kills: Counter[str] = Counter()

    def kill(self) -> None:
        """Kill one, some answers after the last."""
        wanted = self._answers() + self.rng.randrange(1, 8)
        eventually(lambda: self._answers() >= wanted, "no client gets an answer any more")
        kind = self.rng.choice(["server", "actor", "database"])
        if kind == "server":
            self.server.stop(signal.SIGKILL)
            disk = ["--suspend-paused"] * self.rng.randrange(2)
            self.server.start(*self.options, *disk)
        elif kind == "database":
            self._database.kill()
            self._database.start()
        else:
            node = self.rng.choice(sorted(self._nodes.keepers))
            eventually(lambda: self._kill_actor(node), "Ray does not start the actor again")
        self.kills[kind] += 1

    def _answers(self) -> int:
        return sum(each.done for each in self.clients)

    def _kill_actor(self, node: str) -> bool:
        """Whether there was one."""
        path = self.server.place / "server" / "hosts" / node[:16] / "nodes" / node[:16] / "actor"
        try:
            os.kill(int(path.read_text().split()[0]), signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError, IndexError):  # it has not begun
            return False
        return True

    def check(self) -> None:
        """All that was promised is there and works, and nothing else."""
        server = self.server
        assert [wrong for each in self.clients for wrong in each.wrong] == []
        promised = {number: box for each in self.clients for number, box in each.boxes.items()}
        unknown = set.union(*(each.unknown for each in self.clients))
        pages = Sandbox.list(**server.client())
        found: dict[str, SandboxInfo] = {}
        while pages.has_next:
            found |= {each.metadata["number"]: each for each in pages.next_items()}
        assert {number for number, box in promised.items() if not box.may_be_gone} <= found.keys()
        assert found.keys() <= promised.keys() | unknown
        assert server.http("GET", "/v2/sandboxes?state=lost").json() == []
        for number, each in found.items():
            box = promised.get(number)
            assert each.state.value in (box.states if box else EITHER), (box, each)
            eventually(functools.partial(_says, server, each.sandbox_id, number), "its node does not answer")
            if box is None or box.may_be_gone:
                assert Sandbox.kill(each.sandbox_id, **server.client())
            else:
                box.states = ("running",)
        for client_of in self.clients:
            client_of.boxes = {number: box for number, box in client_of.boxes.items() if not box.may_be_gone}
            client_of.unknown.clear()
        ids = {box.id for each in self.clients for box in each.boxes.values()}
        eventually(lambda: server.machines == ids, f"machines are left, or missing: {server.machines ^ ids}")
        hosts = server.place / "server" / "hosts"
        eventually(lambda: not [*hosts.glob("*/saved/*/*")], "what was saved of sandboxes is left")


def _says(server: Server, sandbox_id: str, number: str) -> bool:
    """Whether it is the sandbox of this number; no: its node does not answer yet."""
    try:
        box = Sandbox.connect(sandbox_id, timeout=3600, **server.client())
        assert box.commands.run("echo $NUMBER").stdout == f"{number}\n"
    except (SandboxUnreachableException, ServiceBusyException):
        return False
    return True


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    seed = int(os.environ.get("PYVMM_TEST_SEED") or random.randrange(1 << 32))
    print(f"PYVMM_TEST_SEED={seed}")
    server = Server(tmp_path)
    nodes = Cluster(server, 32 << 10)  # the memory of those that are being ended counts for a while
    database = PostgresServer()
    parts = Parts(server, nodes, database, seed)
    try:
        for name, value in nodes.environment.items():
            monkeypatch.setenv(name, value)
        server.start(*parts.options)
        yield parts
        server.end()
    finally:
        for each in parts.clients:
            each.stop()
        if server.process is not None:
            server.process.kill()
            server.process.wait()
        for log in Path(server.kernels.name).glob("ray/session_latest/logs/worker-*.err"):
            shutil.copy(log, tmp_path)  # what the actors say
        nodes.close()
        database.close()
        with server.kernels:
            end_programs_of(server.kernels.name)


def test_no_sandbox_is_lost_by_a_hundred_kills(parts: Parts) -> None:
    while sum(parts.kills.values()) < KILLS:
        for each in parts.clients:
            each.start()
        for _ in range(min(_CHECKED, KILLS - sum(parts.kills.values()))):
            parts.kill()
        for each in parts.clients:
            each.stop()
        parts.check()
        refused = Counter(words.partition(":")[0].split()[0] for each in parts.clients for words in each.refused)
        print(dict(parts.kills), "answers", sum(each.done for each in parts.clients), "refused", dict(refused))
        sys.stdout.flush()
    print({words.partition(": ")[2] for each in parts.clients for words in each.refused})


def test_a_server_that_waits_takes_over(parts: Parts) -> None:
    """The second one of a database answers when the first one is killed, and has all of its sandboxes."""
    first = parts.server
    boxes = [Sandbox.create(envs={"NUMBER": str(number)}, **first.client()) for number in range(3)]
    boxes[1].pause()
    second = Server.__new__(Server)
    second.__dict__.update(first.__dict__, port=free_port(), process=None)
    second.url = f"http://127.0.0.1:{second.port}"
    starter = threading.Thread(target=second.start, args=parts.options)
    starter.start()
    try:
        eventually(lambda: "waiting for its end" in first.log, "the second server does not wait")
        assert boxes[0].commands.run("echo $NUMBER").stdout == "0\n" and starter.is_alive()
        killed = time.monotonic()
        first.stop(signal.SIGKILL)
        starter.join(PATIENCE)
        print(f"the second answers after {time.monotonic() - killed:.1f} s")
        for number, box in enumerate(boxes):
            eventually(functools.partial(_says, second, box.sandbox_id, str(number)), "its node does not answer")
            assert Sandbox.kill(box.sandbox_id, **second.client())
    finally:
        starter.join(PATIENCE)
        if second.process is not None:
            second.stop()
