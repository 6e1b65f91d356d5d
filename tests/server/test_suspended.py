"""Paused sandboxes that are on disk: ``pyvmm serve --suspend-paused``."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from e2b import Sandbox, SandboxState

from pyvmm_sandbox.template import RECORD
from pyvmm_server.settings import Settings
from pyvmm_server.store import Record
from pyvmm_server.suspended import Suspended
from tests.kata.oci_runtime import needs_namespaces
from tests.server.conftest import Server, running

pytestmark = needs_namespaces


class Box:
    """A sandbox that is saved, with an error after that."""

    def __init__(self, *, ends: bool) -> None:
        self._ends = ends
        self.is_running = True
        self.is_paused = False

    def suspend(self, folder: str) -> None:
        os.mkdir(folder)
        (Path(folder) / RECORD).write_text("{}")
        self.is_running = not self._ends
        raise OSError("afterwards")

    def pause(self) -> None:
        self.is_paused = True


@pytest.mark.parametrize("ends", [True, False])
def test_an_error_after_it_was_saved(tmp_path: Path, ends: bool) -> None:
    """It is on disk if it has ended; and otherwise not, since it goes on."""
    suspended = Suspended(Settings(str(tmp_path), root=str(tmp_path / "root"), suspend_paused=True))
    record = Record("a", "someone", "base", "running", "token", 1, None)
    box = Box(ends=ends)
    assert suspended.pause(record, cast("Any", box)) is ends
    assert suspended.has(record) is ends and box.is_paused is not ends


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path, "--suspend-paused") as server:
        yield server
        assert saved(server) == [], "the saved memory of a sandbox is left"


def saved(server: Server) -> list[str]:
    """Ids of the sandboxes that are on disk."""
    folder = server.place / "server" / "suspended"
    return sorted(os.listdir(folder)) if folder.exists() else []


def set_state(server: Server, box: Sandbox, state: str) -> None:
    """As a server leaves it that is killed before it has written the next one."""
    with sqlite3.connect(server.place / "server" / "server.db") as db:
        assert db.execute("UPDATE sandboxes SET state = ? WHERE id = ?", [state, box.sandbox_id]).rowcount == 1
    db.close()


def check(server: Server, box: Sandbox) -> None:
    """It runs, once."""
    assert box.commands.run("echo on").stdout == "on\n" and box.get_info().state == SandboxState.RUNNING
    assert server.machines == {box.sandbox_id} and saved(server) == []


def test_a_paused_sandbox_has_no_machine(server: Server) -> None:
    box = Sandbox.create(metadata={"a": "b"}, envs={"FROM": "before"}, **server.client())
    file = str(server.place / "files" / "kept")
    for number in range(2):
        box.files.write(file, str(number))
        assert box.pause() is True and box.pause() is False
        assert server.machines == set() and saved(server) == [box.sandbox_id]
        assert box.get_info().state == SandboxState.PAUSED and not box.is_running()
        box.connect()
        check(server, box)
        assert box.files.read(file) == str(number)
    assert box.commands.run("echo $FROM").stdout == "before\n" and box.get_info().metadata == {"a": "b"}
    box.pause()
    assert box.kill() is True and saved(server) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_the_next_server_finds_it(server: Server, number: signal.Signals) -> None:
    box, other = (Sandbox.create(**server.client()) for _ in range(2))
    box.pause(), other.pause()
    server.stop(number)
    (server.place / "server" / "suspended" / "left").mkdir()  # of a sandbox without a record
    server.start()
    assert other.kill() is True and box.get_info().state == SandboxState.PAUSED
    box.connect()
    check(server, box)


def test_a_server_that_is_killed_just_after_it_was_saved(server: Server) -> None:
    """Nobody was told that it is paused."""
    box = Sandbox.create(**server.client())
    box.pause()
    server.stop(signal.SIGKILL)
    set_state(server, box, "running")
    server.start()
    check(server, box)


@pytest.mark.parametrize("state", ["paused", "running"])
def test_a_server_that_is_killed_while_it_is_in_both_places(server: Server, state: str) -> None:
    """While it is saved or started: the record decides."""
    box = Sandbox.create(**server.client())
    box.pause()
    folder = server.place / "server" / "suspended" / box.sandbox_id
    shutil.copytree(folder, server.place / "copy", symlinks=True)
    box.connect()
    server.stop(signal.SIGKILL)
    shutil.move(server.place / "copy", folder)
    set_state(server, box, state)
    server.start()
    if state == "paused":
        assert box.get_info().state == SandboxState.PAUSED
        box.connect()
    check(server, box)


def test_a_server_that_is_killed_just_after_it_was_started(server: Server) -> None:
    """Nobody was told that it runs: it is paused, and can be resumed."""
    box = Sandbox.create(**server.client())
    box.pause()
    box.connect()
    server.stop(signal.SIGKILL)
    set_state(server, box, "paused")
    server.start()
    box.connect()
    check(server, box)


def test_a_sandbox_that_cannot_be_saved_is_paused_in_memory(server: Server) -> None:
    box = Sandbox.create(**server.client())
    (server.place / "server" / "suspended").write_text("no folder")
    try:
        assert box.pause() is True
        assert box.get_info().state == SandboxState.PAUSED and server.machines == {box.sandbox_id}
        box.connect()
        assert box.commands.run("echo on").stdout == "on\n"
    finally:
        (server.place / "server" / "suspended").unlink()
