"""Machines whose guest waits for its first instruction, and children that are made before they are wanted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.tiny import Console
from tests.unit.snapshot.test_fork import COUNT, count, counting
from vmm import ConfigError, Machine, ShareConfig
from vmm.boot import layout
from vmm.faststart.record import replace

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
PATIENCE = 60.0
TSC = 0x10
COUNTER = tiny.BASE + 0x1000
# inc dword [COUNTER]; jmp to it
RUN = b"\xff\x05" + COUNTER.to_bytes(4, "little") + b"\xeb\xf8"


@pytest.fixture
def consoles() -> Iterator[list[Console]]:
    made = [Console() for _ in range(4)]
    yield made
    for console in made:
        console.close()


def has_run(machine: Machine) -> bool:
    return machine.memory.read_int(COUNTER, 4) > 0


def tsc(machine: Machine) -> int:
    return machine.vcpus[0].get_msrs([TSC])[TSC]


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("cpus", [1, 4])
def test_a_guest_that_is_held_waits_for_its_first_instruction(tmp_path: Path, cpus: int) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, RUN), cpus=cpus)) as machine:
        machine.start(held=True)
        assert machine.state == "running"
        machine.pause()
        machine.resume()
        time.sleep(0.02)  # nothing may happen
        assert not has_run(machine)
        assert machine.uptime() == 0
        machine.release()
        wait_until(lambda: has_run(machine))
        machine.release()  # without effect
        wait_until(lambda: machine.uptime() > 0)


def test_a_guest_that_is_held_can_be_stopped_and_reset(tmp_path: Path) -> None:
    config = tiny.config(tiny.make(tmp_path, RUN))
    with Machine(config) as machine:
        machine.start(held=True)
        machine.reset()
        wait_until(lambda: has_run(machine))
    with Machine(config) as machine:
        machine.start(held=True)
        machine.stop()
        end = machine.wait(PATIENCE)
        assert end is not None and end.kind == "stopped"
        machine.release()
        assert not has_run(machine)
    with Machine(config) as machine:
        machine.start(held=True)  # closed while it is held


def test_children_that_are_held_continue_from_the_moment_of_the_fork(tmp_path: Path, consoles: list[Console]) -> None:
    with counting(tmp_path, consoles[0], cpus=2) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        assert count(source, consoles[0]) == 1
        children = source.fork(2, each=lambda i: {"console": consoles[1 + i].config}, start=False)
        for child in children:
            child.start(held=True)
        assert count(source, consoles[0]) == 2
        for child, console in zip(children, consoles[1:], strict=False):
            child.release()
            assert count(child, console) == 2
        with children[0].fork(console=consoles[3].config)[0] as deeper:
            assert count(deeper, consoles[3]) == 3
        assert len({each.memory.read(layout.VM_GENERATION_ID, 16) for each in (source, *children)}) == 3
        for child in children:
            child.close()


def test_time_does_not_pass_in_a_child_that_is_held(tmp_path: Path, consoles: list[Console]) -> None:
    with counting(tmp_path, consoles[0]) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        waits = 0.1
        while True:
            (child,) = source.fork(console=consoles[1].config, start=False)
            with child:
                child.start(held=True)
                child.pause()
                time.sleep(waits)  # the guest's clock must not count this
                here, before = tsc(source), tsc(child)
                if before >= here:
                    pytest.skip("this KVM ignores TSC offsets")
                child.resume()
                child.release()
                child.pause()
                if tsc(child) < before:
                    break
            waits *= 2  # a loaded host may take as long for the release
            assert waits < PATIENCE


def test_pages_that_a_child_touches_can_be_filled_before_it_runs(tmp_path: Path, consoles: list[Console]) -> None:
    (tmp_path / "shared").mkdir()
    share = ShareConfig(str(tmp_path / "shared"), isolation="process")
    config = tiny.config(tiny.make(tmp_path, tiny.say(">"), COUNT), console=consoles[0].config)
    with Machine(replace(config, shares=(share,))) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        assert not source.first_touched.pages()
        pages: list[int] = []
        faults = []
        for _ in range(2):
            (child,) = source.fork(console=consoles[1].config, start=False)
            with child:
                child.start(held=True)
                child.prefault(pages)
                before = child.memory.fill_stats().get("faults", 0)
                child.release()
                assert count(child, consoles[1]) == 1
                faults.append(child.memory.fill_stats().get("faults", 0) - before)
                with pytest.raises(ConfigError, match="the guest runs"):
                    child.prefault(pages)
                first = child.first_touched
            pages = first.pages()
        if not pages:
            pytest.skip("this host does not fill memory on demand")
        assert faults[1] < faults[0]
