"""Which calls each state of a machine allows, and what pause, resume and reset do; with tiny guests."""

from __future__ import annotations

import os
import re
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.sample_devices import Echo
from tests.tiny import Console
from vmm import BalloonConfig, ConfigError, DiskConfig, EndEvent, Event, HotplugMemoryConfig, Machine, create_machine
from vmm.boot import layout
from vmm.events import EventFd
from vmm.faststart.record import replace
from vmm.lifecycle import ALLOWED, STATES, Life

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

PATIENCE = 60.0
COUNTER = tiny.BASE + 0x1000
# inc dword [COUNTER]; jmp to it
COUNT = b"\xff\x05" + COUNTER.to_bytes(4, "little") + b"\xeb\xf8"


def counter(machine: Machine) -> int:
    return machine.memory.read_int(COUNTER, 4)


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# -- the table -----------------------------------------------------------------------------------------------------


def bring(machine: Machine, state: str) -> None:
    """Get a fresh machine into *state*."""
    if state in ("running", "paused", "ended"):
        machine.start()
    if state == "paused":
        machine.pause()
    if state == "ended":
        machine.stop()
    if state == "closed":
        machine.close()


def fork_and_close(machine: Machine) -> None:
    for child in machine.fork(2):
        child.close()


DO: dict[str, Callable[[Machine], object]] = {
    "attach": lambda machine: machine.attach(Echo()),
    "plug": lambda machine: machine.plug(Echo()),
    "unplug": lambda machine: machine.unplug(machine.attached[0], 0),
    "start": lambda machine: machine.start(),
    "run": lambda machine: machine.run(0.01),
    "pause": lambda machine: machine.pause(),
    "resume": lambda machine: machine.resume(),
    "snapshot": lambda machine: machine.snapshot(f"{machine.config.disks[0].path}.warm"),
    "fork": fork_and_close,
    "prepare_forks": lambda machine: machine.prepare_forks(1),
    "reset": lambda machine: machine.reset(),
    "resize_memory": lambda machine: machine.resize_memory(machine.config.memory.size),
    "resize_balloon": lambda machine: machine.resize_balloon(1 << 20),
    "request_balloon_stats": lambda machine: machine.request_balloon_stats(),
    "start_hinting": lambda machine: machine.start_hinting(),
    "stop_hinting": lambda machine: machine.stop_hinting(),
    "resize_cpus": lambda machine: machine.resize_cpus(2),
    "press_power_button": lambda machine: machine.press_power_button(),
    "shutdown": lambda machine: machine.shutdown(0.01),
    "stop": lambda machine: machine.stop(),
    "wait": lambda machine: machine.wait(0.01),
    "events": lambda machine: machine.events().close(),
    "console_input": lambda machine: machine.console_input(b"x"),
    "memory": lambda machine: machine.memory,
    "resize_disk": lambda machine: machine.resize_disk(0),
    "refresh_shares": lambda machine: machine.refresh_shares(),
    "uptime": lambda machine: machine.uptime(),
    "close": lambda machine: machine.close(),
}
LEADS_TO = {
    "start": "running",
    "run": "ended",
    "pause": "paused",
    "resume": "running",
    "reset": "running",
    "close": "closed",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("call", ALLOWED)
def test_every_call_in_every_state(tmp_path: Path, call: str, state: str) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    config = tiny.config(tiny.make(tmp_path, tiny.SPIN), cpus=2, disks=(DiskConfig(str(image)),))
    if call in ("plug", "unplug"):
        config = replace(config, transport="pci")
    if call == "resize_memory":
        config = replace(config, hotplug_memory=HotplugMemoryConfig(128 << 20))
    if call in ("resize_balloon", "request_balloon_stats", "start_hinting", "stop_hinting"):
        config = replace(config, balloon=BalloonConfig(free_page_hinting=True))
    with Machine(config) as machine:
        registers = machine.vcpus[0]
        bring(machine, state)
        assert machine.state == state
        do = (lambda _: (registers.regs, registers.sregs)) if call == "registers" else DO[call]
        if state in ALLOWED[call]:
            do(machine)
            after = LEADS_TO.get(call, state)
            if call == "stop" and state in ("running", "paused"):
                after = "ended"
            assert machine.state == after
        else:
            with pytest.raises(ConfigError) as caught:
                do(machine)
            assert caught.value.code == "machine-state"
            assert caught.value.hint
            assert machine.state == state


# -- pause and resume -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cpus", [1, 4])
def test_a_paused_guest_does_nothing_and_then_goes_on(tmp_path: Path, cpus: int) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, COUNT), cpus=cpus)) as machine:
        machine.start()
        for _ in range(5):
            wait_until(lambda: counter(machine) > 0)
            machine.pause()
            before = counter(machine)
            time.sleep(0.02)  # nothing may happen
            assert counter(machine) == before
            assert tiny.BASE <= machine.vcpus[0].regs.rip < tiny.BASE + 0x1000
            machine.resume()
            wait_until(lambda before=before: counter(machine) != before)  # type: ignore[misc]


@pytest.mark.parametrize("place", [24 << 20, 1 << 30], ids=["RAM", "elsewhere"])
def test_the_time_of_pauses_counts_as_stolen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """Where the guest has told KVM to count that of its vCPU."""
    code = tiny.count_stolen(place), COUNT
    now, hour, passed = time.monotonic_ns, 3600 * 10**9, [0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now() + passed[0])
    with Machine(tiny.config(tiny.make(tmp_path, *code))) as machine:
        machine.start()
        for number in range(1, 3):
            wait_until(lambda: counter(machine) > 0)
            machine.pause()
            before = counter(machine)
            passed[0] += hour
            machine.resume()
            wait_until(lambda before=before: counter(machine) != before)  # type: ignore[misc]
            if place < 1 << 30:
                assert number * hour <= machine.memory.read_int(place, 8) < (number + 1) * hour


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_the_uptime_leaves_pauses_out(tmp_path: Path, isolation: str) -> None:
    with create_machine(replace(tiny.config(tiny.make(tmp_path, tiny.SPIN)), isolation=isolation)) as machine:
        before = time.monotonic()
        machine.start()
        wait_until(lambda: machine.uptime() > 20)
        machine.pause()
        paused = machine.uptime()
        assert 20 < paused <= (time.monotonic() - before) * 1000
        time.sleep(0.05)  # time that must not count
        assert machine.uptime() == paused
        machine.resume()
        wait_until(lambda: machine.uptime() > paused)
        machine.reset()
        assert machine.uptime() < (time.monotonic() - before) * 1000 - 50


def test_registers_that_were_set_while_paused_count(tmp_path: Path, console: Console) -> None:
    code = COUNT + tiny.say("out") + tiny.POWEROFF
    with Machine(tiny.config(tiny.make(tmp_path, code), console=console.config)) as machine:
        machine.start()
        wait_until(lambda: counter(machine) > 0)
        machine.pause()
        regs = machine.vcpus[0].regs
        regs.rip = tiny.BASE + len(COUNT)
        machine.vcpus[0].regs = regs
        assert machine.vcpus[0].sregs.cr0 & 1
        machine.resume()
        end = machine.wait(PATIENCE)
    assert end is not None and end.kind == "poweroff"
    assert console.read(3) == b"out"


def test_vcpus_come_and_go(tmp_path: Path, console: Console) -> None:
    config = tiny.config(tiny.make(tmp_path, tiny.START_APS), console=console.config)
    with Machine(replace(config, max_cpus=3)) as machine:
        memory = machine.memory
        memory.write(tiny.AP_CODE, tiny.AP)

        def count() -> int:
            return memory.read_int(tiny.AP_COUNT, 4)

        def start_aps() -> None:
            assert machine.console_input(b"x") == 1 and console.read(1) == b"x"

        def stands_still() -> bool:
            before = count()
            time.sleep(0.1)  # nothing may happen
            return count() == before

        def wait_for_count() -> None:
            before = count()
            wait_until(lambda: count() != before)

        machine.start()
        start_aps()
        assert machine.cpus == 1 and stands_still() and count() == 0, "the guest has one"
        machine.resize_cpus(2)
        assert machine.cpus == 2 and stands_still() and count() == 0, "what was sent before is forgotten"
        start_aps()
        wait_for_count()
        for wrong in (0, 4):
            with pytest.raises(ConfigError, match="not 1 to 3"):
                machine.resize_cpus(wrong)
        with pytest.raises(ConfigError, match="the guest uses vCPU 1"):
            machine.resize_cpus(1)
        assert machine.cpus == 2
        wait_for_count()
        memory.write(tiny.AP_STOP, b"\1")
        machine.resize_cpus(1)
        memory.write(tiny.AP_STOP, b"\0")
        start_aps()
        assert machine.cpus == 1 and stands_still(), "the guest has one again"
        machine.pause()
        machine.resume()
        start_aps()
        assert stands_still()
        machine.resize_cpus(3)
        assert stands_still()
        start_aps()
        wait_for_count()
        machine.pause()
        assert stands_still()
        machine.resume()
        wait_for_count()
        machine.reset()
        memory.write(tiny.AP_CODE, tiny.AP)
        start_aps()
        assert machine.cpus == 3, "after a reset it may have as many as before"
        wait_for_count()


EXITS = {
    "C": tiny.forever(tiny.say("x")),
    "Python": tiny.forever(tiny.outb(layout.PVPANIC, 0)),
    "memory": COUNT,
    "halt": tiny.HALT,
}


@pytest.mark.parametrize("exit_", EXITS)
def test_pausing_without_end_while_exits_are_in_progress(tmp_path: Path, exit_: str) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, EXITS[exit_]), cpus=2)) as machine:
        machine.start()
        for _ in range(200):
            machine.pause()
            machine.resume()
        assert machine.state == "running"


def test_no_access_is_lost_or_done_twice(tmp_path: Path, console: Console) -> None:
    text = "".join(chr(97 + n % 26) for n in range(200))
    with Machine(tiny.config(tiny.make(tmp_path, tiny.say(text), tiny.POWEROFF), console=console.config)) as machine:
        machine.start()
        try:
            while True:
                machine.pause()
                machine.resume()
        except ConfigError:
            assert machine.state == "ended"
    assert console.read(200) == text.encode()


def test_pause_while_the_console_takes_no_more(tmp_path: Path, console: Console) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, EXITS["C"]), console=console.config)) as machine:
        machine.start()
        os.set_blocking(console.reader, False)
        wait_until(lambda: not select.select((), (console.writer,), (), 0)[1])
        machine.pause()
        assert machine.state == "paused"
        machine.resume()


@pytest.mark.parametrize("last", ["stop", "close", "poweroff"])
def test_a_pause_and_an_end_at_the_same_time(tmp_path: Path, last: str) -> None:
    code = tiny.POWEROFF if last == "poweroff" else COUNT
    codes = {"machine-state"}
    for _ in range(20):
        machine = Machine(tiny.config(tiny.make(tmp_path, code), cpus=2))
        machine.start()
        other = threading.Thread(target=getattr(machine, last, machine.events))
        other.start()
        try:
            machine.pause()
            machine.resume()
        except ConfigError as error:
            codes.add(error.code)
        other.join()
        machine.close()
    assert codes == {"machine-state"}


def test_stop_and_close_reach_a_paused_machine(tmp_path: Path) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, tiny.SPIN), cpus=3)) as machine:
        machine.start()
        machine.pause()
        machine.stop(detail="enough")
        end = machine.wait(PATIENCE)
        assert end is not None and end.detail == "enough"


def test_a_device_that_pauses_its_own_machine_is_told_why_not(tmp_path: Path) -> None:
    errors: list[ConfigError] = []
    with Machine(tiny.config(tiny.make(tmp_path, tiny.SPIN))) as machine:

        def on_loop(_events: int) -> None:
            event.clear()
            for call in (machine.pause, machine.reset):
                try:
                    call()
                except ConfigError as error:
                    errors.append(error)
            machine.stop()

        event = EventFd()
        machine.loop.add(event.fd, on_loop)
        machine.start()
        event.signal()
        machine.wait(PATIENCE)
    event.close()
    assert [error.code for error in errors] == ["machine-thread"] * 2


# -- reset ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["running", "paused", "ended"])
@pytest.mark.parametrize("shared", [False, True])
def test_after_a_reset_nothing_is_as_it_was(tmp_path: Path, console: Console, state: str, shared: bool) -> None:
    # print the byte at a place that it then writes to; count
    mark = COUNTER + 0x100
    look = (
        b"\xa0" + mark.to_bytes(4, "little") + b"\x66\xba" + layout.COM1.to_bytes(2, "little") + b"\x04\x30\xee"
        b"\xc6\x05" + mark.to_bytes(4, "little") + b"\x07"
    )  # mov al, [mark]; mov dx, COM1; add al, '0'; out; mov byte [mark], 7
    plain = tiny.config(tiny.make(tmp_path, look + COUNT), cpus=2, console=console.config)
    config = type(plain)(
        plain.boot, type(plain.memory)(plain.memory.size, shared=shared), plain.cpus, console=plain.console
    )
    with Machine(config) as machine:
        machine.start()
        for _ in range(3):
            assert console.read(1) == b"0"
            wait_until(lambda: counter(machine) > 0)
            machine.memory.write(0x50_0000, b"left behind")
            if state == "paused":
                machine.pause()
            elif state == "ended":
                machine.stop()
                assert machine.wait() is not None
            machine.reset()
            assert machine.memory.read(0x50_0000, 11) == bytes(11)
            assert machine.state == "running"
            assert machine.wait(0) is None
        assert console.read(1) == b"0"


def test_a_reset_takes_what_the_kernels_file_is_now(tmp_path: Path, console: Console) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, tiny.say("a"), tiny.SPIN), console=console.config)) as machine:
        machine.start()
        assert console.read(1) == b"a"
        path = Path(tiny.make(tmp_path, tiny.say("b"), tiny.SPIN))
        machine.reset()
        assert console.read(1) == b"b"
        path.write_bytes(b"no kernel")
        with pytest.raises(ConfigError, match=re.escape(str(path))):
            machine.reset()
        assert machine.state == "running", "it goes on as it was"


def test_what_was_typed_before_a_reset_is_not_read_after_it(tmp_path: Path, console: Console) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, tiny.say("!") + tiny.ECHO), console=console.config)) as machine:
        machine.start()
        assert console.read(1) == b"!"
        machine.pause()
        machine.console_input(b"old")
        machine.reset()
        assert console.read(1) == b"!"
        machine.console_input(b"new")
        assert console.read(3) == b"new"


def test_resets_and_stops_at_the_same_time(tmp_path: Path) -> None:
    for _ in range(10):
        with Machine(tiny.config(tiny.make(tmp_path, COUNT), cpus=2)) as machine:
            machine.start()
            other = threading.Thread(target=machine.stop, kwargs={"detail": "enough"})
            other.start()
            machine.reset()
            other.join()
            machine.stop(detail="too")
            end = machine.wait(PATIENCE)
            assert end is not None and end.kind == "stopped"


def test_resets_without_end_leave_nothing_behind(tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd")) + len(os.listdir("/proc/self/task"))

    with Machine(tiny.config(tiny.make(tmp_path, COUNT), cpus=2), devices=(Echo(),)) as machine:
        machine.start()
        machine.reset()
        first = count()
        for _ in range(20):
            machine.reset()
        # A thread may not have been up, or not gone, at the first count; what a reset leaves would be there 20 times
        wait_until(lambda: count() <= first + 2)


# -- the streams of a machine's events, with tiny guests -------------------------------------------------------------


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
