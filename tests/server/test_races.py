"""Requests and checks that meet: each is stopped where the other one comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pyvmm_server import leftovers, metrics, store
from pyvmm_server.errors import ClientError
from pyvmm_server.sandboxes import Sandboxes
from pyvmm_server.settings import Settings
from pyvmm_server.store import Record
from pyvmm_server.upkeep import Upkeep
from tests.kata.oci_runtime import PATIENCE
from tests.server.gated_engine import GatedEngine


@pytest.fixture
def folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> str:
    caplog.set_level(logging.WARNING, "pyvmm_server")
    return str(tmp_path / "state")


def _server(folder: str, engine: GatedEngine) -> Sandboxes:
    return Sandboxes(Settings(folder, {"base": "an image"}), engine)


async def _made(folder: str, engine: GatedEngine) -> tuple[Sandboxes, Record]:
    sandboxes = _server(folder, engine)
    return sandboxes, await sandboxes.create("someone", "base", 60)


@contextlib.asynccontextmanager
async def _upkeep(sandboxes: Sandboxes) -> AsyncIterator[None]:
    task = asyncio.create_task(Upkeep(sandboxes).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _ended() -> float:
    return metrics.REGISTRY.get_sample_value("pyvmm_server_machine_failures_total", {"during": "ended"}) or 0.0


def test_a_sandbox_that_is_killed_while_it_is_checked_has_not_ended_by_itself(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        engine = GatedEngine()
        sandboxes, record = await _made(folder, engine)
        gate = engine.gate("is_running")
        async with _upkeep(sandboxes):
            await gate.reached.wait()
            await sandboxes.kill(record)
            gate.open()
            other = await sandboxes.create("someone", "base", 60)  # the check goes on with it
            await sandboxes.kill(other)
        sandboxes.store.close()

    before = _ended()
    asyncio.run(run())
    assert _ended() == before and "has ended" not in caplog.text


def test_a_sandbox_that_is_killed_while_a_request_finds_it_is_not_found(folder: str) -> None:
    async def run() -> None:
        engine = GatedEngine()
        sandboxes, record = await _made(folder, engine)
        sandboxes.forget(record.id)  # as a new server
        gate = engine.gate("connect")
        request = asyncio.create_task(sandboxes.live(record))
        await gate.reached.wait()
        kill = asyncio.create_task(sandboxes.kill(record))
        gate.open()
        with pytest.raises(ClientError, match="was not found"):
            await request
        await kill
        assert sandboxes._live == {}
        sandboxes.store.close()

    asyncio.run(run())


def test_requests_that_come_at_once_after_a_restart_find_a_sandbox_once(folder: str) -> None:
    """A second search would meet what the first request has begun to start, and end it."""

    async def run() -> None:
        engine = GatedEngine()
        sandboxes, record = await _made(folder, engine)
        sandboxes.forget(record.id)  # as a new server
        gate = engine.gate("connect")
        requests = [asyncio.create_task(sandboxes.live(record)) for _ in range(3)]
        await gate.reached.wait()
        requests[0].cancel()  # its client has left
        gate.open()
        first, second = await asyncio.gather(*requests[1:])
        assert first is second and engine.found == 1
        sandboxes.store.close()

    asyncio.run(run())


def test_requests_that_come_at_once_resume_a_paused_sandbox_once(folder: str) -> None:
    async def run() -> None:
        engine = GatedEngine()
        sandboxes = _server(folder, engine)
        record = await sandboxes.create("someone", "base", 60, auto_resume=True)
        await sandboxes.pause(record)
        paused = sandboxes.get("someone", record.id)
        gate = engine.gate("resume")
        requests = [asyncio.create_task(sandboxes.awake(paused)) for _ in range(3)]
        await gate.reached.wait()
        gate.open()
        assert len({id(each) for each in await asyncio.gather(*requests)}) == 1
        sandboxes.store.close()

    asyncio.run(run())


def test_a_lost_sandbox_stays_reported_lost_when_a_request_finds_it_gone(folder: str) -> None:
    async def run() -> None:
        engine = GatedEngine()
        sandboxes, record = await _made(folder, engine)
        sandboxes.forget(record.id)
        engine.running.clear()
        gate = engine.gate("connect")
        request = asyncio.create_task(sandboxes.live(record))
        await gate.reached.wait()
        sandboxes.store.change(record.id, state=store.LOST, ends=None)
        gate.open()
        with pytest.raises(ClientError):
            await request
        assert [each.id for each in sandboxes.store.in_states(store.LOST)] == [record.id]
        sandboxes.store.close()

    asyncio.run(run())


@pytest.mark.parametrize("call", ["pause", "resume"])
def test_a_sandbox_that_is_killed_while_it_is_paused_or_resumed_is_not_there_again(folder: str, call: str) -> None:
    async def run() -> None:
        engine = GatedEngine()
        sandboxes, record = await _made(folder, engine)
        if call == "resume":
            await sandboxes.pause(record)
        gate, ending = engine.gate(call), engine.gate("kill")
        work = asyncio.create_task(sandboxes.pause(record) if call == "pause" else sandboxes.resume(record, 60))
        await gate.reached.wait()
        kill = asyncio.create_task(sandboxes.kill(record))
        await ending.reached.wait()
        gate.open()
        with pytest.raises(ClientError, match="does not exist any more"):
            await work
        assert [each.id for each in sandboxes.store.in_states(store.ENDING)] == [record.id]
        ending.open()
        await kill
        assert sandboxes.store.get(record.id) is None
        sandboxes.store.close()

    asyncio.run(run())


def test_a_sandbox_that_is_killed_before_its_resume_has_an_end_does_not_run(folder: str) -> None:
    """The kill has looked for it where it was: on disk."""

    async def run() -> None:
        engine = GatedEngine()
        sandboxes, record = await _made(folder, engine)
        await sandboxes.pause(record)
        gate = engine.gate("resume")
        work = asyncio.create_task(sandboxes.resume(record, 60))
        await gate.reached.wait()
        await sandboxes.kill(record)
        gate.open()
        with pytest.raises(ClientError, match="does not exist any more"):
            await work
        assert engine.running == set() and sandboxes.store.get(record.id) is None
        sandboxes.store.close()

    asyncio.run(run())


def test_a_sandbox_ends_in_time_while_much_is_removed(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What earlier servers have left, as a volume with very many files."""
    removed = threading.Event()
    monkeypatch.setattr(leftovers, "remove_paths", lambda _: removed.wait())

    async def run() -> None:
        sandboxes = _server(folder, GatedEngine())
        record = await sandboxes.create("someone", "base", 0)
        changed = asyncio.Event()
        with sandboxes.store.watched(changed):
            async with _upkeep(sandboxes), asyncio.timeout(PATIENCE):
                while sandboxes.store.get(record.id) is not None:
                    await changed.wait()
                    changed.clear()
                removed.set()
        sandboxes.store.close()

    try:
        asyncio.run(run())
    finally:
        removed.set()


def test_a_node_that_is_killed_while_it_resumes_leaves_no_end_that_has_passed(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server ends the sandbox in time: the next actor of the node would do so at once."""

    async def run() -> None:
        sandboxes, record = await _made(folder, GatedEngine())
        await sandboxes.pause(record)
        change, seen = sandboxes.store.change, []

        def spy(sandbox_id: str, **values: object) -> None:
            change(sandbox_id, **values)
            with contextlib.closing(sqlite3.connect(f"{folder}/server.db")) as database:
                seen.append(database.execute("SELECT state, ends FROM sandboxes").fetchone())

        monkeypatch.setattr(sandboxes.store, "change", spy)
        await sandboxes.resume(record, None)
        assert (store.RUNNING, None) in seen and {ends for _, ends in seen} == {None}
        sandboxes.store.close()

    asyncio.run(run())


def test_an_end_that_was_moved_is_not_moved_back_by_an_older_record(folder: str) -> None:
    async def run() -> None:
        sandboxes, record = await _made(folder, GatedEngine())
        later = time.time() + 3600
        sandboxes.set_end(record, later)  # of another client, while this one's request waits
        sandboxes.extend(record, 10)
        found = sandboxes.store.get(record.id)
        assert found is not None and found.ends == later
        sandboxes.store.close()

    asyncio.run(run())


def test_a_sandbox_whose_time_is_extended_at_its_end_goes_on(folder: str) -> None:
    async def run() -> None:
        engine = GatedEngine()
        sandboxes, record = await _made(folder, engine)
        sandboxes.set_end(record, time.time() - 1)
        upkeep = Upkeep(sandboxes)
        (due,) = sandboxes.store.due(time.time())
        sandboxes.set_end(record, time.time() + 3600)
        await upkeep._end_of_time(due)
        assert engine.running == {record.name}
        sandboxes.store.close()

    asyncio.run(run())


def test_a_sandbox_that_has_ended_by_itself_is_found_and_removed(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        engine = GatedEngine()
        sandboxes, record = await _made(folder, engine)
        engine.running.clear()
        changed = asyncio.Event()
        with sandboxes.store.watched(changed):
            async with _upkeep(sandboxes):
                while sandboxes.store.get(record.id) is not None:
                    await changed.wait()
                    changed.clear()
        sandboxes.store.close()

    before = _ended()
    asyncio.run(run())
    assert _ended() == before + 1 and "sandbox has ended" in caplog.text
