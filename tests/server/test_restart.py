"""A server that ends, however it ends, and the next one: what clients were promised holds."""

from __future__ import annotations

import random
import signal
import threading
import time

import pytest
from e2b import Sandbox, SandboxState, TimeoutException

from tests.kata.oci_runtime import eventually, needs_namespaces
from tests.server.conftest import Server

pytestmark = needs_namespaces


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_the_next_server_finds_all_sandboxes(own_server: Server, number: signal.Signals) -> None:
    server = own_server
    box = Sandbox.create(metadata={"a": "b"}, envs={"FROM": "before"}, **server.client())
    box.files.write(f"{server.place}/files/f", "written before")
    command = box.commands.run("echo begun; exec sleep 600.5", background=True)
    next(iter(command))
    paused = Sandbox.create(**server.client())
    paused.pause()
    short = Sandbox.create(timeout=1, **server.client())
    snapshot = box.create_snapshot()
    server.stop(number)
    if number == signal.SIGTERM:
        with pytest.raises(TimeoutException, match="the server ends"):
            command.wait()
    time.sleep(1.1)  # the time of the last one passes without a server
    server.start()
    assert box.is_running() and box.get_info().metadata == {"a": "b"}
    assert box.files.read(f"{server.place}/files/f") == "written before"
    assert box.commands.run("echo $FROM; pgrep -fx 'sleep 600.5' && pkill -fx 'sleep 600.5'").stdout[:6] == "before"
    assert paused.get_info().state == SandboxState.PAUSED
    assert paused.connect().commands.run("echo on").stdout == "on\n"
    eventually(lambda: not short.is_running(), "its time was over before the server started")
    eventually(lambda: server.machines == {box.sandbox_id, paused.sandbox_id}, "its machine is left")
    with Sandbox.create(snapshot.snapshot_id, **server.client()) as copy:
        assert copy.commands.run("echo copy").stdout == "copy\n"


def _create(server: Server, promised: set[str], killed: set[str]) -> None:
    """Make sandboxes, and kill some, until the server is gone."""
    while True:
        try:
            box = Sandbox.create(**server.client(), retries=0)
            promised.add(box.sandbox_id)
            if random.random() < 0.3:
                killed.add(box.sandbox_id)
                box.kill(retries=0)
        except Exception:
            return


def _round(server: Server) -> None:
    promised: set[str] = set()
    killed: set[str] = set()
    creators = [threading.Thread(target=_create, args=(server, promised, killed)) for _ in range(4)]
    for each in creators:
        each.start()
    wanted = random.randrange(1, 8)
    eventually(lambda: len(promised) >= wanted, "no sandbox is made")
    server.stop(signal.SIGKILL)
    for each in creators:
        each.join()
    server.start()
    pages, found = Sandbox.list(**server.client()), set()
    while pages.has_next:
        found |= {each.sandbox_id for each in pages.next_items()}
    # Without an answer, a client cannot know: each may have one more sandbox, and one that it has killed.
    assert promised - killed <= found
    assert len(found - promised) <= len(creators)
    eventually(lambda: server.machines == found, "machines are left that nobody was promised")
    for sandbox_id in found:
        box = Sandbox.connect(sandbox_id, **server.client())
        assert box.commands.run("echo on").stdout == "on\n"
        box.kill()


def test_a_server_that_is_killed_loses_no_sandbox_and_leaves_none(own_server: Server) -> None:
    _round(own_server)


@pytest.mark.long  # 100 rounds of two seconds
def test_a_server_that_is_killed_a_hundred_times(own_server: Server) -> None:
    for _ in range(100):
        _round(own_server)
