"""The streams of a machine's events, with tiny guests."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests import tiny
from vmm import EndEvent, Event, Machine
from vmm.machine.lifecycle import Life

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

PATIENCE = 60.0


def test_a_stream_has_everything_in_order_and_ends_with_the_end(tmp_path: Path) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, tiny.SPIN))) as machine:
        streams = [machine.events() for _ in range(3)]
        seen: list[list[Event | EndEvent]] = [[] for _ in streams]
        threads = [threading.Thread(target=n.extend, args=(s,)) for s, n in zip(streams, seen, strict=True)]
        for thread in threads:
            thread.start()
        machine.start()
        machine.pause()
        machine.resume()
        machine.reset()
        machine.press_power_button()
        machine.stop(detail="enough")
        for thread in threads:
            thread.join(PATIENCE)
        late = list(machine.events())
    kinds = ["started", "paused", "resumed", "reset", "power-button", "stopped"]
    assert [[event.kind for event in one] for one in seen] == [kinds] * 3
    assert seen[0][-1] == machine.wait() == late[0]
    assert len(late) == 1
    times = [event.at for event in seen[0]]
    assert times == sorted(times)


def test_a_stream_ends_when_it_or_the_machine_is_closed(tmp_path: Path) -> None:
    machine = Machine(tiny.config(tiny.make(tmp_path)))
    stream, other = machine.events(), machine.events()
    thread = threading.Thread(target=lambda: list(stream))
    thread.start()
    stream.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    machine.close()
    assert [event.kind for event in other] == ["stopped"]


def test_the_run_after_a_reset_has_a_stream_of_its_own(tmp_path: Path) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, tiny.SPIN))) as machine:
        machine.start()
        machine.stop()
        assert [event.kind for event in machine.events()] == ["stopped"]
        machine.reset()
        stream = machine.events()
        machine.stop(detail="again")
        assert [(event.kind, event.detail) for event in stream] == [("stopped", "again")]


def test_a_forgotten_stream_is_forgotten() -> None:
    life = Life()
    for _ in range(100):
        life.stream()
    assert len(life._listeners) <= 1
