"""A server that ends, however it ends, and the next one: what clients were promised holds."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from e2b import Sandbox, SandboxState, TimeoutException

from tests.kata.oci_runtime import PATIENCE, eventually, needs_namespaces
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


@contextlib.contextmanager
def _stuck(server: Server, box: Sandbox) -> Iterator[None]:
    """The sandbox has ended by itself, and its monitor does not answer during the block."""
    known = json.loads((server.place / "state" / f"e2b-{box.sandbox_id}" / "state.json").read_text())
    os.kill(known["monitor"], signal.SIGSTOP)
    os.kill(known["pid"], signal.SIGKILL)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(known["monitor"], signal.SIGCONT)


def _is_ending(server: Server, box: Sandbox) -> bool:
    return server.http("GET", f"/sandboxes/{box.sandbox_id}").status_code == 404


def _kill(server: Server, box: Sandbox) -> None:
    with contextlib.suppress(httpx.TransportError):  # the server is killed
        server.http("DELETE", f"/sandboxes/{box.sandbox_id}", timeout=PATIENCE)


def test_a_server_that_is_killed_while_it_ends_a_sandbox(own_server: Server) -> None:
    """Two that end the same sandbox, a client and the check for those that have ended: the second forgot it before
    the first was done."""
    server = own_server
    checked, ending, later = (Sandbox.create(**server.client()) for _ in range(3))
    with _stuck(server, ending):
        with _stuck(server, checked), _stuck(server, later):
            # The check has found all three, and waits for the first
            eventually(lambda: _is_ending(server, checked), "the check does not end it")
            client = threading.Thread(target=_kill, args=(server, ending))
            client.start()
            eventually(lambda: _is_ending(server, ending), "the client's request does not come")
        eventually(lambda: server.machines == {ending.sandbox_id}, "the check does not go on")
        server.stop(signal.SIGKILL)
        client.join()
        server.start()
    eventually(lambda: server.machines == set(), "the new server does not know the machine")


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
