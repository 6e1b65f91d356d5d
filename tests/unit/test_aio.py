"""The asyncio twin, with tiny guests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import descriptors
from vmm import AsyncMachine, ConfigError, ConsoleConfig, EndEvent, Event

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def test_run_and_console(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncMachine(tiny.config(tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO))) as vm:
            running = asyncio.create_task(vm.run(60))
            assert await vm.console.readline() == b"hello\n"
            await vm.console.write(b"there\n\4")
            assert await vm.console.readline() == b"there\n"
            assert (await running).kind == "poweroff"
            assert await vm.console.read(1) == b"\4"
        assert await vm.console.read() == b"", "the end of the stream"

    run(main())


def test_more_is_typed_than_the_port_takes_at_once(tmp_path: Path) -> None:
    text = bytes(65 + n % 26 for n in range(10000))

    async def main() -> None:
        async with AsyncMachine(tiny.config(tiny.make(tmp_path, tiny.ECHO))) as vm:
            await vm.start()
            typing = asyncio.create_task(vm.console.write(text))
            got = b""
            while len(got) < len(text):
                got += await vm.console.read(4096)
            await typing
            assert got == text

    run(main())


def test_events_of_a_life(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncMachine(tiny.config(tiny.make(tmp_path, tiny.SPIN))) as vm:
            seen: list[Event | EndEvent] = []

            async def watch() -> None:
                async for event in vm.events():
                    seen.append(event)

            watching = asyncio.create_task(watch())
            await asyncio.sleep(0)
            await vm.start()
            assert await vm.wait(0.01) is None
            await vm.pause()
            assert vm.state == "paused"
            await vm.resume()
            await vm.reset()
            assert await vm.shutdown(0.01) is None, "this guest has no ACPI"
            vm.stop("enough")
            await watching
            end = await vm.wait()
            assert end is not None and end.detail == "enough"
            kinds = [event.kind for event in seen]
            assert kinds == ["started", "paused", "resumed", "reset", "power-button", "stopped"]

    run(main())


def test_a_timeout_stops_the_guest(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncMachine(tiny.config(tiny.make(tmp_path, tiny.SPIN))) as vm:
            assert (await vm.run(0.05)).kind == "timeout"

    run(main())


def test_a_cancelled_task_leaves_nothing(tmp_path: Path) -> None:
    made: list[AsyncMachine] = []

    async def main() -> None:
        async with AsyncMachine(tiny.config(tiny.make(tmp_path, tiny.SPIN))) as vm:
            made.append(vm)
            await vm.run()

    async def outer() -> None:
        task = asyncio.create_task(main())
        while not made or made[0].state != "running":
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = descriptors()
    run(outer())
    made.clear()
    assert descriptors() <= before


def test_several_at_once(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.say("hello\n"), tiny.POWEROFF)

    async def one() -> bytes:
        async with AsyncMachine(tiny.config(kernel)) as vm:
            assert (await vm.run()).kind == "poweroff"
            return await vm.console.readline()

    async def main() -> None:
        assert await asyncio.gather(*(one() for _ in range(5))) == [b"hello\n"] * 5

    run(main())


def test_mistakes_are_told(tmp_path: Path) -> None:
    async def main() -> None:
        vm = AsyncMachine(tiny.config(str(tmp_path / "none")))
        with pytest.raises(ConfigError, match="async with"):
            _ = vm.machine
        with pytest.raises(ConfigError, match="No such file"):
            await vm.__aenter__()
        kernel = tiny.make(tmp_path)
        async with AsyncMachine(tiny.config(kernel, console=ConsoleConfig("fd", 1))) as other:
            with pytest.raises(ConfigError, match="elsewhere"):
                _ = other.console
            with pytest.raises(ConfigError) as caught:
                await other.pause()
            assert caught.value.code == "machine-state"

    run(main())


def test_saved_and_restored(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncMachine(tiny.config(tiny.make(tmp_path, tiny.say(">"), tiny.ECHO))) as vm:
            await vm.start()
            assert await vm.console.read(1) == b">"
            await vm.snapshot(str(tmp_path / "warm"))
            async with AsyncMachine.restore(str(tmp_path / "warm")) as clone:
                await clone.start()
                for each in (clone, vm):
                    await each.console.write(b"on")
                    assert await each.console.read(2) == b"on"

    run(main())
