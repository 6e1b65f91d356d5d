"""Machines saved and restored on the real /dev/kvm: their guests are a few instructions, so any KVM runs them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import cbor2
import pytest

from tests import tiny
from tests.sample_devices import Echo
from tests.tiny import Console
from vmm import AnyMachine, BalloonConfig, ConfigError, DiskConfig, HostError, HotplugMemoryConfig, Machine, VsockConfig
from vmm.faststart.record import replace
from vmm.saveable import State, Unsaved
from vmm.saving import memory_file, working_set
from vmm.saving import verify as whole
from vmm.saving.manifest import manifest_text, read_manifest

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

PATIENCE = 60.0


@pytest.fixture
def consoles() -> Iterator[list[Console]]:
    made = [Console() for _ in range(3)]
    yield made
    for console in made:
        console.close()


def echo(folder: Path, console: Console, **options: object) -> Machine:
    """A machine that sends back what it is typed; its run ends with an end of transmission."""
    return Machine(tiny.config(tiny.make(folder, tiny.say(">"), tiny.ECHO), console=console.config, **options))  # type: ignore[arg-type]


def talk(machine: AnyMachine, console: Console, text: bytes) -> None:
    assert machine.console_input(text) == len(text)
    assert console.read(len(text)) == text


@pytest.mark.parametrize("shared", [False, True])
def test_memory_that_was_added_is_that_of_clones_too(tmp_path: Path, consoles: list[Console], shared: bool) -> None:
    more, place = HotplugMemoryConfig(128 << 20), (4 << 30) + (64 << 20)
    config = tiny.config(tiny.make(tmp_path, tiny.say(">"), tiny.ECHO), console=consoles[0].config)
    config = replace(config, memory=replace(config.memory, shared=shared), hotplug_memory=more)
    with Machine(config) as machine:
        machine.start()
        assert consoles[0].read(1) == b">"
        machine.resize_memory((32 << 20) + (66 << 20))
        machine.memory.write(place, b"added")
        machine.snapshot(str(tmp_path / "warm"))
        (child,) = machine.fork()
        with child, Machine.restore(str(tmp_path / "warm")) as clone:
            for each in (child, clone):
                assert each.memory.read(place, 6) == b"added\0"
                assert each.hotplug_memory.stats()["requested"] == 66 << 20
                assert each.memory.regions[-1].size == 128 << 20
                each.memory.write(place, b"other")
            clone.reset()
            assert clone.memory.read(place, 5) == bytes(5)
        assert machine.memory.read(place, 6) == b"added\0"


@pytest.mark.parametrize("now", [1, 3])
def test_clones_have_as_many_vcpus_and_may_have_more(tmp_path: Path, consoles: list[Console], now: int) -> None:
    config = tiny.config(tiny.make(tmp_path, tiny.START_APS), console=consoles[0].config)

    def counts(machine: Machine, expected: bool) -> bool:
        before = machine.memory.read(tiny.AP_COUNT, 4)
        end = time.monotonic() + (30 if expected else 0.1)
        while machine.memory.read(tiny.AP_COUNT, 4) == before and time.monotonic() < end:
            time.sleep(0.01)
        return machine.memory.read(tiny.AP_COUNT, 4) != before

    with Machine(replace(config, max_cpus=3)) as machine:
        machine.memory.write(tiny.AP_CODE, tiny.AP)
        machine.start()
        machine.resize_cpus(now)
        talk(machine, consoles[0], b"x")
        machine.snapshot(str(tmp_path / "warm"))
        with pytest.raises(ConfigError, match="max_cpus cannot be another"):
            Machine.restore(str(tmp_path / "warm"), max_cpus=0)
        (child,) = machine.fork(console=consoles[1].config)
    with child, Machine.restore(str(tmp_path / "warm"), console=consoles[2].config) as clone:
        for each, console in ((child, consoles[1]), (clone, consoles[2])):
            assert each.cpus == now and counts(each, now > 1) == (now > 1)
            each.resize_cpus(3)
            assert counts(each, now > 1) == (now > 1)
            talk(each, console, b"x")
            assert counts(each, True)


@pytest.mark.parametrize("clock", ["host", "resume"])
@pytest.mark.parametrize(
    ("place", "before"), [(24 << 20, 0), (24 << 20, (1 << 64) - 1), (1 << 30, 0)], ids=["RAM", "largest", "elsewhere"]
)
def test_the_time_since_a_snapshot_counts_as_stolen(
    tmp_path: Path, consoles: list[Console], monkeypatch: pytest.MonkeyPatch, place: int, before: int, clock: str
) -> None:
    """Where the guest has told KVM to count that of its vCPU: MSR_KVM_STEAL_TIME."""
    code = tiny.count_stolen(place), tiny.say(">"), tiny.ECHO
    config = tiny.config(tiny.make(tmp_path, *code), console=consoles[0].config)
    with Machine(config) as machine:
        machine.start()
        assert consoles[0].read(1) == b">"
        if place < 1 << 30:
            machine.pause()
            machine.memory.write_int(place, 8, before)
        machine.snapshot(str(tmp_path / "warm"))
    now, hour = time.time_ns, 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: now() + hour)
    with Machine.restore(str(tmp_path / "warm"), clock=clock, console=consoles[1].config) as clone:
        talk(clone, consoles[1], b"x")
        if place < 1 << 30:
            stolen = (clone.memory.read_int(place, 8) - before) % (1 << 64)
            assert (stolen >= hour) == (clock == "host")


@pytest.mark.parametrize("way", ["snapshot", "fork"])
def test_a_copy_of_a_paused_machine_has_its_pause_as_stolen_time(
    tmp_path: Path, consoles: list[Console], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    place = 24 << 20
    code = tiny.count_stolen(place), tiny.say(">"), tiny.ECHO
    config = tiny.config(tiny.make(tmp_path, *code), console=consoles[0].config)
    now, hour = time.monotonic_ns, 3600 * 10**9
    with Machine(config) as machine:
        machine.start()
        assert consoles[0].read(1) == b">"
        machine.pause()
        monkeypatch.setattr(time, "monotonic_ns", lambda: now() + hour)
        if way == "snapshot":
            machine.snapshot(str(tmp_path / "late"))
            copy = Machine.restore(str(tmp_path / "late"), clock="resume", console=consoles[1].config)
        else:
            (copy,) = machine.fork(console=consoles[1].config)
        with copy:
            talk(copy, consoles[1], b"x")
            assert hour <= copy.memory.read_int(place, 8) < 2 * hour
        machine.resume()
        talk(machine, consoles[0], b"x")
        assert hour <= machine.memory.read_int(place, 8) < 2 * hour, "not twice"


def test_a_number_of_vcpus_that_cannot_be_is_refused(tmp_path: Path) -> None:
    config = replace(tiny.config(tiny.make(tmp_path)), max_cpus=3)
    with Machine(config) as machine:
        for wrong in (0, 4):
            with pytest.raises(ConfigError, match=f"{wrong} of 3 run"):
                machine.execution.restore(State("vcpus", 1, {"count": wrong}))


@pytest.mark.parametrize("cpus", [1, 4, 32])
@pytest.mark.parametrize("paused", [False, True])
def test_a_clone_goes_on_and_so_does_the_source(
    tmp_path: Path, consoles: list[Console], cpus: int, paused: bool
) -> None:
    with echo(tmp_path, consoles[0], cpus=cpus) as machine:
        machine.start()
        assert consoles[0].read(1) == b">"
        talk(machine, consoles[0], b"before")
        if paused:
            machine.pause()
        machine.snapshot(str(tmp_path / "warm"))
        assert machine.state == ("paused" if paused else "running")
        if paused:
            machine.resume()
        talk(machine, consoles[0], b"after")
        with Machine.restore(str(tmp_path / "warm"), console=consoles[1].config) as clone:
            talk(clone, consoles[1], b"clone")  # and not ">": it has not begun anew
            clone.snapshot(str(tmp_path / "again"))
            clone.console_input(b"\4")
            end = clone.wait(PATIENCE)
            assert end is not None and end.kind == "poweroff"
        shutil.rmtree(tmp_path / "warm")
        with Machine.restore(str(tmp_path / "again"), console=consoles[2].config) as third:
            talk(third, consoles[2], b"third")
        talk(machine, consoles[0], b"still there")


def test_diffs_of_diffs_hold_nothing_but_what_is_theirs(tmp_path: Path, consoles: list[Console]) -> None:
    with echo(tmp_path, consoles[0]) as machine:
        machine.start()
        assert consoles[0].read(1) == b">"
        base = None
        for number in range(3):
            machine.memory.write(0x20_0000 + number * 4096, b"%d" % number)
            path = str(tmp_path / str(number))
            machine.snapshot(path, base=base)
            base = path
    assert [sorted(os.listdir(tmp_path / str(number))) for number in range(3)] == [
        ["diffs", "manifest.json", "memory", "state"],
        ["diffs", "manifest.json", "memory", "pages", "state"],
        ["manifest.json", "memory", "pages", "state"],
    ]
    whole.verify_snapshot(str(tmp_path / "2"))
    with Machine.restore(str(tmp_path / "2"), console=consoles[1].config) as clone:
        assert [clone.memory.read(0x20_0000 + number * 4096, 1) for number in range(3)] == [b"0", b"1", b"2"]
        talk(clone, consoles[1], b"clone")


def test_what_was_typed_and_not_read_is_kept(tmp_path: Path, consoles: list[Console]) -> None:
    with echo(tmp_path, consoles[0]) as machine:
        machine.start()
        assert consoles[0].read(1) == b">"
        machine.pause()
        assert machine.console_input(b"typed") == 5
        machine.snapshot(str(tmp_path / "warm"))
    with Machine.restore(str(tmp_path / "warm"), console=consoles[1].config):
        assert consoles[1].read(5) == b"typed"


def test_a_clone_can_wait_and_be_reset(tmp_path: Path, consoles: list[Console]) -> None:
    with echo(tmp_path, consoles[0]) as machine:
        machine.start()
        assert consoles[0].read(1) == b">"
        machine.snapshot(str(tmp_path / "warm"), stop=True)
        end = machine.wait(PATIENCE)
        assert end is not None and (end.kind, end.detail) == ("stopped", "snapshot")
    with Machine.restore(str(tmp_path / "warm"), console=consoles[1].config, start=False) as clone:
        assert clone.state == "made"
        kinds: list[str] = []
        clone.listen(lambda event: kinds.append(event.kind))
        clone.start()
        talk(clone, consoles[1], b"x")
        clone.reset()
        assert consoles[1].read(1) == b">", "it begins at the kernel's entry"
        talk(clone, consoles[1], b"y")
        assert kinds == ["restored", "reset"]


def test_disks_are_of_the_point_in_time(tmp_path: Path, consoles: list[Console]) -> None:
    disks = tiny.two_disks(tmp_path)
    written, read = (Path(disk.path) for disk in disks)
    with echo(tmp_path, consoles[0], disks=disks) as machine:
        machine.start()
        assert consoles[0].read(1) == b">"
        machine.snapshot(str(tmp_path / "warm"))
        written.write_bytes(b"later".ljust(1 << 20, b"\0"))
        assert (tmp_path / "warm" / "disk0").read_bytes()[:11] == b"at the time"
        assert not (tmp_path / "warm" / "disk1").exists()
        with Machine.restore(str(tmp_path / "warm"), console=consoles[1].config) as clone:
            talk(clone, consoles[1], b"x")
            paths = [disk.path for disk in clone.config.disks]
            assert paths[0] not in (str(written), str(tmp_path / "warm" / "disk0"))
            assert paths[1] == str(read)
            assert not os.path.exists(paths[0]), "nothing is left when it is killed"
            clone.snapshot(str(tmp_path / "again"))
            assert (tmp_path / "again" / "disk0").read_bytes()[:11] == b"at the time"
        os.utime(read)
        with pytest.raises(ConfigError, match=r"read\.img: it was changed"):
            Machine.restore(str(tmp_path / "warm"))
        Machine.restore(str(tmp_path / "warm"), force=True).close()
        read.unlink()
        with pytest.raises(ConfigError, match=r"read\.img"):
            Machine.restore(str(tmp_path / "warm"))
        own = tmp_path / "own.img"
        own.write_bytes(bytes(1 << 20))
        given = (DiskConfig(str(own)), DiskConfig(str(own), read_only=True))
        with pytest.raises(ConfigError, match="in use"):
            Machine.restore(str(tmp_path / "warm"), disks=given)
        with pytest.raises(ConfigError, match="devices"):
            Machine.restore(str(tmp_path / "warm"), disks=given[:1])


def test_a_device_that_does_not_say_how_is_refused(tmp_path: Path) -> None:
    class Lasting(Echo):
        saving = Unsaved("it lasts")  # type: ignore[assignment]

    with Machine(tiny.config(tiny.make(tmp_path)), devices=(Lasting(),)) as machine:
        machine.start()
        with pytest.raises(ConfigError, match="cannot be saved: it lasts"):
            machine.snapshot(str(tmp_path / "warm"))
        assert machine.state == "running"
    assert not (tmp_path / "warm").exists()


@pytest.fixture
def warm(tmp_path: Path, consoles: list[Console]) -> Path:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    with echo(tmp_path, consoles[0], disks=(DiskConfig(str(disk)),)) as machine:
        machine.start()
        assert consoles[0].read(1) == b">"
        machine.snapshot(str(tmp_path / "warm"))
    return tmp_path / "warm"


def test_it_is_whole(warm: Path) -> None:
    whole.verify_snapshot(str(warm))
    manifest = read_manifest(str(warm))
    assert manifest.memory_bytes <= (warm / "memory").stat().st_blocks * 512
    assert manifest.memory_bytes < 1 << 20
    assert manifest.devices[0].kind == "virtio-blk"


@pytest.mark.parametrize("name", ["manifest.json", "state", "memory", "disk0"])
@pytest.mark.parametrize("fault", ["missing", "short", "flipped", "empty"])
def test_a_damaged_file_is_named(warm: Path, name: str, fault: str) -> None:
    path = warm / name
    raw = path.read_bytes()
    path.chmod(0o600)
    if fault == "missing":
        path.unlink()
    elif fault == "flipped":
        at = len(raw) - len(raw.lstrip(b"\0")) if name == "memory" else len(raw) // 2
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x80]) + raw[at + 1 :])
    else:
        path.write_bytes(raw[: len(raw) // 2] if fault == "short" else b"")
    with pytest.raises(ConfigError, match=name):
        whole.verify_snapshot(str(warm))
    with pytest.raises(ConfigError, match=name):
        Machine.restore(str(warm), verify=True)
    if name not in ("memory", "disk0") or fault not in ("flipped", "empty", "short"):
        with pytest.raises((ConfigError, HostError)):
            Machine.restore(str(warm))


def change(folder: Path, **fields: object) -> None:
    path = folder / "manifest.json"
    path.write_text(manifest_text({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    "fields",
    [
        {"format": 0},
        {"format": 4},
        {"format": "1"},
        {"format": True},
        {"constant": [[0]]},
        {"constant": [[0, 4095]]},
        {"constant": [[8192, 4096]]},
        {"constant": [[-4096, 4096]]},
        {"constant": [[0, 1 << 40]]},
        {"constant": [[0, 8192], [4096, 12288]]},
        {"constant": [[4096 * n, 4096 * n + 4096] for n in range(0, 10, 2)]},
        {"memory_size": 16 << 20},
        {"memory_size": "much"},
        {"disks": []},
        {"config": {}},
        {"config": {"record": "MachineConfig"}},
        {"devices": 5},
        {"cpu": None},
        {"base": "../warm", "base_id": "x"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_manifest_that_cannot_be_is_refused(warm: Path, fields: dict[str, object]) -> None:
    change(warm, **fields)
    with pytest.raises(ConfigError):
        Machine.restore(str(warm))


Place = tuple[str | int, ...]
"""Of a value in a state: keys and indexes."""


def places(value: object, here: Place = ()) -> Iterator[tuple[Place, object]]:
    """Each value that is made of no others."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield from places(each, (*here, key))
    if not isinstance(value, (dict, list)):
        yield here, value


def put(state: object, place: Place, value: object) -> None:
    for key in place[:-1]:
        state = state[key]  # type: ignore[index]
    state[place[-1]] = value  # type: ignore[index]


def another(chance: random.Random, value: object) -> object:
    """In place of *value*: mostly of the same type."""
    if chance.random() < 0.1:
        return chance.choice((None, 0, "a", b"b", [], {}, 1.5))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice((0, 1, -1, value ^ 1 << chance.randrange(64), (1 << 64) - 1, 1 << 64, 65535, 1 << 31))
    if isinstance(value, bytes):
        return chance.choice((b"", value + b"x", chance.randbytes(len(value)), value[: len(value) // 2]))
    return chance.choice(("", "../../etc", "\0", "x" * 70000))


@pytest.mark.parametrize("transport", ["mmio", "pci"])
def test_whatever_a_state_says_the_clone_is_refused_or_runs(
    tmp_path: Path, consoles: list[Console], transport: str
) -> None:
    """A driver's queues anywhere, and values that no machine has: an error that says so, or devices that stop."""
    config = tiny.config(tiny.make(tmp_path, tiny.say(">"), tiny.ECHO), console=consoles[0].config)
    config = replace(config, transport=transport, balloon=BalloonConfig(), disks=tiny.two_disks(tmp_path))
    config = replace(config, hotplug_memory=HotplugMemoryConfig(256 << 20))
    warm = tmp_path / "warm"
    with Machine(replace(config, vsock=VsockConfig(uds=str(tmp_path / "0.sock")))) as machine:
        machine.start()
        assert consoles[0].read(1) == b">"
        machine.snapshot(str(warm))
    saved, chance = (warm / "state").read_bytes(), random.Random(1)
    (warm / "state").chmod(0o600)
    found = list(places(cbor2.loads(saved)))
    first = [place for place, _ in found if place[-1] == "queue_sel"][:1] + [
        place for place, value in found if "msrs" in place and isinstance(value, int)
    ][:1]
    for number in range(40):
        state = cbor2.loads(saved)
        for device in state["devices"] if number % 2 else ():
            device["payload"]["driver"] |= {"status": 15, "driver_features": 1 << 32}
            for queue in device["payload"]["driver"]["queues"]:
                queue |= {
                    "ready": True,
                    "size": chance.choice((1, 3, 64, 65535)),
                    "next_index": chance.randrange(1 << 16),
                }
                queue |= {area: chance.choice((1 << 20, 0x1FFF000, 1 << 63)) for area in ("desc", "driver", "device")}
        # Some are few among many
        group = chance.choice(("vcpus", "vm", "platform", "devices"))
        for place, value in chance.sample([each for each in found if each[0][0] == group], chance.randrange(1, 3)):
            put(state, place, another(chance, value))
        if number < len(first):
            state = cbor2.loads(saved)
            put(state, first[number], 1 << 31 if first[number][-1] == "queue_sel" else -1)
        raw = cbor2.dumps(state)
        (warm / "state").write_bytes(raw)
        change(warm, state_sha256=hashlib.sha256(raw).hexdigest())
        try:
            clone = Machine.restore(str(warm), vsock=VsockConfig(uds=str(tmp_path / "1.sock")))
        except (ConfigError, HostError):
            continue
        with clone:
            end = clone.wait(0.001)
            assert end is None or not isinstance(end.error, (TypeError, ValueError, LookupError)), end.error


def test_a_name_of_a_file_elsewhere_is_refused(warm: Path) -> None:
    disk = json.loads((warm / "manifest.json").read_text())["disks"][0]
    change(warm, disks=[{**disk, "file": "../disk.img"}])
    with pytest.raises(ConfigError, match="is not a file name"):
        Machine.restore(str(warm))


@pytest.mark.parametrize(("field", "force"), [("vendor", True), ("cpuid", True)])
def test_another_processor_is_refused(warm: Path, consoles: list[Console], field: str, force: bool) -> None:
    cpu = json.loads((warm / "manifest.json").read_text())["cpu"]
    change(warm, cpu={**cpu, field: "Another"})
    with pytest.raises(ConfigError, match="was taken on"):
        Machine.restore(str(warm))
    with Machine.restore(str(warm), force=force, console=consoles[1].config) as clone:
        talk(clone, consoles[1], b"x")


def test_bases_that_go_round_in_a_circle_end(warm: Path) -> None:
    manifest = json.loads((warm / "manifest.json").read_text())
    change(warm, base=".", base_id=manifest["id"])
    with pytest.raises(ConfigError, match="on each other"):
        Machine.restore(str(warm))


def test_what_the_first_clone_touched_is_read_for_the_next(warm: Path, consoles: list[Console]) -> None:
    with Machine.restore(str(warm), prefetch=True, console=consoles[1].config) as first:
        talk(first, consoles[1], b"x")
        first.memory.read(0x10_0000, 1)
    wanted = working_set.read(str(warm), 32 << 20)
    assert wanted is not None and wanted[0x10_0000 // 4096 // 8] & 1
    whole.verify_snapshot(str(warm))
    drop(warm / "memory")
    with Machine.restore(str(warm), prefetch=True, start=False):
        deadline = time.monotonic() + PATIENCE
        while missing(wanted, warm / "memory") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert missing(wanted, warm / "memory") == []
    with Machine.restore(str(warm), prefetch=True, console=consoles[2].config) as third:
        third.reset()
        assert consoles[2].read(1) == b">"


def drop(path: Path) -> None:
    """Have the host forget a file, as far as its file system does that."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def missing(wanted: bytes, path: Path) -> list[int]:
    """Pages that would have to be read."""
    found = []
    with path.open("rb", buffering=0) as file:
        for start, end in memory_file.page_runs(wanted, 32 << 20):
            for at in range(start, end, 4096):
                try:
                    os.preadv(file.fileno(), [bytearray(1)], at, os.RWF_NOWAIT)
                except BlockingIOError:
                    found.append(at)
    return found


@pytest.mark.parametrize(
    "lie", [b"", b"\xff" * 1023, b"\xff" * 1024, None], ids=["empty", "short", "all", "a directory"]
)
def test_a_clone_starts_whatever_it_is_told_to_read(warm: Path, consoles: list[Console], lie: bytes | None) -> None:
    path = warm / working_set.WORKING_SET
    path.write_bytes(lie) if lie is not None else path.mkdir()
    with Machine.restore(str(warm), prefetch=True, console=consoles[1].config) as clone:
        talk(clone, consoles[1], b"x")
    assert lie is None or len(path.read_bytes()) == 1024, "one of another size is made anew"
