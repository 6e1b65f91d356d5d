"""A machine whose process is a child of the caller's, in a jail: ``isolation="process"``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import links_of, of_threads
from tests.unit.snapshot.test_fork import COUNT
from tools.where import ROOT
from vmm import (
    AnyMachine,
    AsyncMachine,
    ConfigError,
    DeviceConfig,
    DiskConfig,
    GuestError,
    HostError,
    HotplugMemoryConfig,
    MachineConfig,
    ShareConfig,
    VsockConfig,
    create_machine,
    import_fork,
    restore_machine,
)
from vmm.faststart.record import replace
from vmm.processes import isolated, jailed
from vmm.processes.isolated import ELSEWHERE
from vmm.saving.manifest import read_manifest

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
PATIENCE = 60.0


def config(kernel: str, console: tiny.Console | None = None, **more: Any) -> MachineConfig:
    base = tiny.config(kernel, console=None if console is None else console.config)
    return replace(base, **{"isolation": "process", **more})


def children() -> set[int]:
    """Of this process, those that have ended and nobody has waited for included."""
    return {int(pid) for text in of_threads("children").values() for pid in text.split()}


def opened() -> set[str]:
    """What the descriptors of this process are, each with its number."""
    return {f"{name} {link}" for name, link in links_of().items()}


def has_confined_threads(pid: int, name: str, count: int) -> bool:
    """Whether so many of its threads are so named soon (each names itself), all with filters of their own beside the
    process's."""
    deadline = time.monotonic() + 60
    while (found := confined_threads(pid, name)) != count and time.monotonic() < deadline:
        time.sleep(0.01)
    return found == count


def confined_threads(pid: int, name: str) -> int:
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            if not (task / "comm").read_text().startswith(name):
                continue
            status = (task / "status").read_text()
            assert "CapEff:\t0000000000000000" in status and int(status.split("Seccomp_filters:")[1].split()[0]) > 1
            found += 1
    return found


@pytest.mark.parametrize("isolation", ["process", "fork"])
def test_a_life_in_another_process(tmp_path: Path, console: tiny.Console, isolation: str) -> None:
    before, files = children(), opened()
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    kernel = tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO)
    more = HotplugMemoryConfig(128 << 20)
    machine: Any = create_machine(
        config(kernel, console, disks=(DiskConfig(str(disk)),), isolation=isolation, hotplug_memory=more, max_cpus=3)
    )
    with machine:
        events = machine.events()
        assert machine.state == "made" and machine.end is None
        machine.start()
        assert console.read(6) == b"hello\n"
        assert machine.state == "running" and {"capabilities", "seccomp"} <= {*machine.walls}
        assert not [link for link in opened() - files if "kvm" in link or "disk" in link]
        status = Path(f"/proc/{machine.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status and "Seccomp:\t2" in status
        room = int(status.split("FDSize:")[1].split()[0])
        assert isolation == "process" or room >= 256, "a table that grows later waits for the kernel"
        named = {link for link in links_of(machine.pid).values() if not link.startswith("anon_inode:")}
        own = {link.partition(" ")[2] for link in files} & named  # a timer of one looks like that of any other
        given = {os.readlink(f"/proc/self/fd/{fd}") for fd in (2, console.config.fd)}
        assert own <= {"/dev/null", *given}, "nothing else that this process has open"
        assert [device.name for device in machine.devices][-1] == "rng"
        names = [name for name, _ in machine.phases_within()]
        assert names[0] == "made" and names[-1] == "first-run"
        (vcpu, *_), counted = machine.figures()["vcpus"], {row["name"]: row for row in machine.figures()["devices"]}
        assert vcpu["c"] > 0 and "python" in vcpu and counted[f"disk {disk}"]["reads"] == 0
        machine.resize_memory(machine.config.memory.size + (64 << 20))
        counted = {row["name"]: row for row in machine.figures()["devices"]}
        assert counted["hotplug memory"]["requested"] == 64 << 20 and not counted["hotplug memory"]["plugged"]
        with pytest.raises(ConfigError, match="not 0 to"):
            machine.resize_memory(1)
        machine.resize_cpus(3)
        with pytest.raises(ConfigError, match="not 1 to 3"):
            machine.resize_cpus(4)
        machine.resize_cpus(2)
        assert machine.cpus == 2 and has_confined_threads(machine.pid, "vcpu", 3)
        machine.pause()
        assert machine.state == "paused"
        with pytest.raises(ConfigError, match="cannot pause a machine that is paused"):
            machine.pause()
        machine.resume()
        first = machine.pid
        machine.reset()
        assert console.read(6) == b"hello\n" and machine.pid != first
        assert [row["requested"] for row in machine.figures()["devices"] if "plugged" in row] == [64 << 20]
        assert machine.cpus == 2 and has_confined_threads(machine.pid, "vcpu", 2)
        text = bytes(65 + n % 26 for n in range(5000))
        spaces, got = threading.Semaphore(0), b""
        machine.console.space_callback = spaces.release
        for piece in (text, b"\4"):
            while piece:
                taken = machine.console_input(piece)
                piece = piece[taken:]
                got += console.read(taken)
                assert not piece or spaces.acquire(timeout=PATIENCE)
        assert got == text + b"\4"
        assert machine.wait(PATIENCE).kind == "poweroff" and machine.state == "ended"
        kinds = [event.kind for event in events]
        assert kinds == ["started", "paused", "resumed", "reset", "poweroff"]
    assert machine.state == "closed" and children() <= before
    machine.close()
    with pytest.raises(ConfigError, match="closed"):
        machine.console_input(b"x")
    del machine, events
    assert len(opened()) <= len(files)


@pytest.mark.parametrize("when", ["made", "running", "paused"])
def test_it_is_stopped(tmp_path: Path, when: str) -> None:
    with create_machine(config(tiny.make(tmp_path, tiny.SPIN))) as machine:
        if when != "made":
            machine.start()
        if when == "paused":
            machine.pause()
        machine.stop(detail="enough")
        if when == "made":
            machine.start()
        end = machine.wait(PATIENCE)
        assert end is not None and (end.kind, end.detail) == ("stopped", "enough")
        machine.stop(detail="again")
        assert machine.wait(0) == end


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_guest_that_has_looked_at_nothing_waits_for_nothing(tmp_path: Path, isolation: str) -> None:
    made = config(tiny.make(tmp_path, tiny.SPIN), shares=(ShareConfig(str(tmp_path)),), isolation=isolation)
    with create_machine(made) as machine:
        machine.start(confined=True)
        for number in range(3):
            (tmp_path / "file").write_text(f"{number}")
            machine.refresh_shares()
        machine.stop()
        machine.wait(PATIENCE)
        machine.refresh_shares()


def test_time_is_over(tmp_path: Path) -> None:
    with create_machine(config(tiny.make(tmp_path, tiny.SPIN))) as machine:
        assert machine.run(0.1).kind == "timeout"


@pytest.mark.parametrize(
    "code, kind",
    [
        (tiny.POWEROFF, "poweroff"),
        (tiny.PANIC, "panic"),
        (tiny.ACPI_RESET, "reboot"),
        (tiny.TRIPLE_FAULT, "triple-fault"),
    ],
)
def test_how_a_run_ends(tmp_path: Path, code: bytes, kind: str) -> None:
    with create_machine(config(tiny.make(tmp_path, code))) as machine:
        end = machine.run(PATIENCE)
        assert end.kind == kind and end.error is None


def test_an_end_by_an_error_has_the_error(tmp_path: Path) -> None:
    with create_machine(config(tiny.make(tmp_path, tiny.NOWHERE))) as machine, pytest.raises(GuestError) as caught:
        machine.run(PATIENCE)
    with (
        create_machine(replace(config(str(tmp_path / "tiny.elf")), isolation="thread")) as here,
        pytest.raises(GuestError) as same,
    ):
        here.run(PATIENCE)
    assert (str(caught.value), caught.value.code) == (str(same.value), same.value.code)


def test_mistakes_are_told_where_they_are_made(tmp_path: Path) -> None:
    before = children()
    kernel = tiny.make(tmp_path, tiny.SPIN)
    with pytest.raises(ConfigError, match="nowhere"):
        create_machine(config(kernel, disks=(DiskConfig(str(tmp_path / "nowhere")),)))
    with pytest.raises(ConfigError, match="tiny"):
        create_machine(config(str(tmp_path / "tiny")))
    with pytest.raises(ConfigError, match="isolation"):
        replace(config(kernel), isolation="jail")
    with pytest.raises(ConfigError, match="share 'share' with isolation=thread"):
        create_machine(config(kernel, shares=(ShareConfig(str(tmp_path), isolation="thread"),)))

    class Own(DeviceConfig):
        pass

    with pytest.raises(ConfigError, match="a Own is not available"):
        create_machine(config(kernel, more_devices=(Own(),)))
    assert children() <= before


def test_what_it_does_not_have_says_so(tmp_path: Path) -> None:
    """All that a Machine has is there, or an error that names it and says what to do."""
    with create_machine(config(tiny.make(tmp_path, tiny.SPIN))) as machine:
        for name in ELSEWHERE:
            with pytest.raises(ConfigError, match=rf"{name} is not available .* process of its own"):
                getattr(machine, name)
        with pytest.raises(ConfigError, match="a terminal's keys"):
            machine.start(terminal=True)
        with pytest.raises(ConfigError, match=r"start\(held=True\) is not available"):
            machine.start(held=True)  # type: ignore[call-arg]
        with create_machine(replace(machine.config, isolation="thread")) as usual:
            names = {name for name in (*vars(usual), *dir(type(usual))) if not name.startswith("_")}
    has = {name for name in (*vars(machine), *dir(type(machine))) if not name.startswith("_")}
    assert names - has - {*ELSEWHERE} == {"of_origin"}


def test_who_ends_by_itself_is_an_error_that_says_how(tmp_path: Path) -> None:
    with create_machine(config(tiny.make(tmp_path, tiny.SPIN))) as machine:
        machine.start()
        os.kill(machine.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        with pytest.raises(HostError, match="process has ended of SIGKILL") as caught:
            machine.wait(PATIENCE)
        assert caught.value.code == "isolation-ended" and machine.state == "ended"
        with pytest.raises(ConfigError, match="a machine that is ended"):
            machine.pause()
        machine.reset()
        assert machine.state == "running"


def test_who_does_not_answer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jailed, "STOP_SECONDS", 0.5)
    with create_machine(config(tiny.make(tmp_path, tiny.SPIN))) as machine:
        machine.start()
        os.kill(machine.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
        machine.stop()
        end = machine.wait(PATIENCE)
        assert end is not None and end.kind == "stopped"


CALLER = """
import signal, sys
from tests.unit.test_isolated import config
from vmm import create_machine
machine = create_machine(config(sys.argv[1]))
machine.start()
print(machine.pid, flush=True)
signal.pause()
"""


def test_it_ends_with_its_caller(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CALLER, tiny.make(tmp_path, tiny.SPIN)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as caller:
        assert caller.stdout is not None
        pidfd = os.pidfd_open(int(caller.stdout.readline()))
        caller.kill()
    assert select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)


@pytest.mark.parametrize("isolation", ["process", "fork"])
def test_the_package_may_be_found_by_another_path(tmp_path: Path, isolation: str) -> None:
    """As that of a program which is started by its folder's path, with ``..`` or links in it."""
    kernel = tiny.make(tmp_path, tiny.POWEROFF)
    (tmp_path / "link").symlink_to(ROOT)
    script = "import sys; sys.path.insert(0, sys.argv[3]); from tests import tiny; from vmm import *; "
    script += "from vmm.faststart.record import replace; "
    script += "print(create_machine(replace(tiny.config(sys.argv[1]), isolation=sys.argv[2])).run(60).kind)"
    command = [sys.executable, "-P", "-c", script, kernel, isolation, f"{tmp_path}/link/tests/.."]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout, done.returncode) == ("poweroff\n", 0), done.stderr


def test_it_is_saved_and_restored(tmp_path: Path, console: tiny.Console) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"before".ljust(1 << 20, b"\0"))
    kernel = tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO)
    warm, seen = str(tmp_path / "warm"), []
    with create_machine(config(kernel, console, disks=(DiskConfig(str(disk)),))) as machine:
        machine.start()
        assert console.read(6) == b"hello\n"
        machine.snapshot(warm, progress=lambda done, size: seen.append((done, size)))
        assert seen and machine.state == "running"
        machine.snapshot(str(tmp_path / "diff"), base=warm, stop=True)
        end = machine.wait(PATIENCE)
        assert end is not None and (end.kind, end.detail) == ("stopped", "snapshot")
    assert read_manifest(warm).config["isolation"] == "thread", "where it runs is nothing of the guest's"
    for folder in (warm, str(tmp_path / "diff")):
        for isolation in ("process", "fork", "thread"):
            with restore_machine(folder, console=console.config, isolation=isolation) as clone:
                assert clone.config.isolation == isolation
                assert clone.console_input(b"again\4") == 6
                assert console.read(6) == b"again\4"
                ended = clone.wait(PATIENCE)
                assert ended is not None and ended.kind == "poweroff"
                if isolation != "thread":
                    with pytest.raises(ConfigError, match="a reset of a clone"):
                        clone.reset()
    with pytest.raises(ConfigError, match="prefetch"):
        restore_machine(warm, isolation="process", prefetch=True)
    with pytest.raises(ConfigError, match="no snapshot"):
        restore_machine(str(tmp_path / "cold"), isolation="process")


@pytest.mark.parametrize(("isolation", "paused"), [("process", False), ("process", True), ("fork", False)])
def test_it_is_forked(tmp_path: Path, isolation: str, paused: bool) -> None:
    """Everybody goes on from the moment, alone: with RAM, disks and an identity of its own."""
    before, consoles = opened(), [tiny.Console() for _ in range(5)]
    files = {name: tmp_path / f"{name}.img" for name in ("written", "read", "below")}
    for path in files.values():
        path.write_bytes(b"at the time".ljust(1 << 20, b"\0"))
    disks = (
        DiskConfig(str(files["written"])),
        DiskConfig(str(files["read"]), read_only=True),
        DiskConfig(str(files["below"]), cow="overlay", overlay=str(tmp_path / "over.img")),
    )
    kernel = tiny.make(tmp_path, tiny.say(">"), COUNT)

    def count(machine: AnyMachine, console: tiny.Console) -> int:
        assert machine.console_input(b"x") == 1
        return console.read(1)[0]

    with create_machine(config(kernel, consoles[0], disks=disks, isolation=isolation)) as source:
        events: list[tuple[str, str]] = []
        source.listen(lambda event: events.append((event.kind, event.detail)))
        source.start()
        assert consoles[0].read(1) == b">"
        assert [count(source, consoles[0]) for _ in range(2)] == [1, 2]
        there = set(os.listdir(tmp_path))
        if paused:
            source.pause()
        children = source.fork(2, each=lambda number: {"console": consoles[1 + number].config})
        assert ("forked", "2") in events and source.state == ("paused" if paused else "running")
        if paused:
            source.resume()
        assert count(source, consoles[0]) == 3
        assert [count(child, consoles[1 + n]) for n, child in enumerate(children)] == [3, 3]
        (deeper,) = children[0].fork(console=consoles[3].config, start=False)
        assert deeper.state == "made"
        deeper.start()
        (later,) = source.fork(console=consoles[4].config)
        assert (count(deeper, consoles[3]), count(later, consoles[4])) == (4, 4)
        everybody = (source, *children, deeper, later)
        assert len({each.pid for each in everybody}) == 5  # type: ignore[attr-defined]
        assert {each.config.isolation for each in everybody} == {isolation}
        assert {each.config.disk_configs() for each in everybody} == {disks}
        assert set(os.listdir(tmp_path)) == there, "files of their own have no names"
        source.close()
        deeper.snapshot(str(tmp_path / "warm"))
        manifest = read_manifest(str(tmp_path / "warm"))
        for number in (0, 2):
            assert (tmp_path / "warm" / manifest.disks[number].file).read_bytes().startswith(b"at the time")
        with pytest.raises(ConfigError, match="a reset of a clone"):
            deeper.reset()
        with pytest.raises(ConfigError, match="0 children"):
            deeper.fork(0)
        for each in (*children, deeper, later):
            each.close()
        with restore_machine(str(tmp_path / "warm"), console=consoles[0].config) as clone:
            assert count(clone, consoles[0]) == 5
    for console in consoles:
        console.close()
    assert opened() <= before


@pytest.mark.parametrize("isolation", ["process", "fork"])
def test_another_process_makes_its_children(tmp_path: Path, isolation: str) -> None:
    """What it exports is values and descriptors; the source may have ended by then."""
    before, consoles = opened(), [tiny.Console() for _ in range(4)]
    kernel = tiny.make(tmp_path, tiny.say(">"), COUNT)
    with create_machine(config(kernel, consoles[0], isolation=isolation)) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        assert source.console_input(b"x") == 1 and consoles[0].read(1) == b"\1"
        about, fds = source.export_fork(2)
        assert source.console_input(b"x") == 1 and consoles[0].read(1) == b"\2"
    told = json.loads(json.dumps(about))
    child = import_fork(told, [os.dup(fd) for fd in fds], console=consoles[1].config, isolation="process")
    with child, import_fork(told, fds, console=consoles[2].config, isolation="fork") as other:
        for each, console in ((child, consoles[1]), (other, consoles[2])):
            assert each.console_input(b"x") == 1 and console.read(1) == b"\2"
        with import_fork(*child.export_fork(), console=consoles[3].config) as deeper:
            assert deeper.console_input(b"x") == 1 and consoles[3].read(1) == b"\3"
    for console in consoles:
        console.close()
    assert opened() <= before


@pytest.mark.parametrize("shared", [True, False], ids=["filled", "private"])
def test_children_of_a_clone_share_what_it_has_not_written(tmp_path: Path, shared: bool) -> None:
    """Its RAM is filled from the snapshot if its share has a server, or lies over it; the snapshot is not copied."""
    consoles = [tiny.Console() for _ in range(4)]
    kernel, shares = tiny.make(tmp_path, tiny.say(">"), COUNT), {"s": str(tmp_path)} if shared else {}
    own = tuple(ShareConfig(path, tag) for tag, path in shares.items())
    with create_machine(config(kernel, consoles[0], shares=own)) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        source.snapshot(str(tmp_path / "warm"))
    size = os.stat(tmp_path / "warm" / "memory").st_blocks
    with restore_machine(
        str(tmp_path / "warm"), isolation="process", console=consoles[1].config, shares=shares
    ) as clone:
        assert clone.console_input(b"x") == 1 and consoles[1].read(1) == b"\1"
        about, fds = clone.export_fork()
        if about["areas"] is None:
            pytest.skip("this host fills no memory on demand")
        assert 0 < os.fstat(fds[0]).st_blocks < size
        with import_fork(about, fds, console=consoles[2].config, shares=shares) as child:
            assert child.console_input(b"x") == 1 and consoles[2].read(1) == b"\2"
            with import_fork(*child.export_fork(), console=consoles[3].config, shares=shares) as deeper:
                assert deeper.console_input(b"x") == 1 and consoles[3].read(1) == b"\3"
        assert clone.console_input(b"x") == 1 and consoles[1].read(1) == b"\2"
    for console in consoles:
        console.close()


def test_what_is_no_export_of_a_fork_is_refused(tmp_path: Path) -> None:
    before, kernel = opened(), tiny.make(tmp_path, tiny.SPIN)
    with (
        create_machine(config(kernel, isolation="thread")) as machine,
        pytest.raises(ConfigError, match="a process of"),
    ):
        machine.export_fork()
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with create_machine(config(kernel, disks=(DiskConfig(str(image)),))) as machine:
        machine.start()
        with pytest.raises(ConfigError, match="disks that it writes"):
            machine.export_fork()
        assert machine.state == "running"
    with create_machine(config(kernel)) as machine:
        machine.start()
        about, fds = machine.export_fork()
        with pytest.raises(ConfigError, match="no 2 files"):
            import_fork(about, [os.dup(fd) for fd in fds[:2]])
        with pytest.raises(ConfigError):
            import_fork({**about, "config": {"cpus": "many"}}, [os.dup(fd) for fd in fds])
        with pytest.raises(ConfigError):
            import_fork(about, fds, cpus=3)
    assert opened() <= before


def test_a_second_fork_copies_what_has_changed_since(tmp_path: Path, console: tiny.Console) -> None:
    kernel = tiny.make(tmp_path, tiny.say(">"), COUNT)
    with create_machine(config(kernel, console)) as machine:
        machine.start()
        assert console.read(1) == b">"
        written = []
        for number in range(3):
            point: Any = machine.fork_point(1)
            fds = point.child({}).fds
            written.append(os.fstat(fds[0]).st_blocks)
            for fd in fds:
                os.close(fd)
            assert point.is_base == (number == 0)
            point.close()
            assert machine.console_input(b"x") == 1
            assert console.read(1) == bytes([number + 1])
        assert 0 < written[1] <= written[2] < written[0], "its pages are its own once it has written them"


def test_a_fork_that_cannot_be_leaves_the_source_as_it_was(tmp_path: Path) -> None:
    before, processes = opened(), children()
    image = tmp_path / "read.img"
    image.write_bytes(bytes(1 << 20))
    disks = (DiskConfig(str(image), read_only=True),)
    with create_machine(config(tiny.make(tmp_path, tiny.SPIN), disks=disks)) as machine:
        machine.start()
        with pytest.raises(ConfigError, match="nowhere"):
            machine.fork(
                2,
                each=lambda number: {
                    "disks": (DiskConfig(str(tmp_path / ("nowhere" * number or "read.img")), read_only=True),)
                },
            )
        with pytest.raises(ConfigError, match="a device of the caller's own"):
            machine.fork(devices=(object(),))
        os.rename(image, tmp_path / "elsewhere")
        image.write_bytes(bytes(2 << 20))
        with pytest.raises(ConfigError, match="another file than the machine has open"):
            machine.fork()
        assert machine.state == "running"
        os.rename(tmp_path / "elsewhere", image)
        machine.fork()[0].close()
    assert opened() <= before and children() <= processes


def test_sockets_of_the_guest_are_reached_from_here(tmp_path: Path) -> None:
    uds = str(tmp_path / "v.sock")
    with create_machine(config(tiny.make(tmp_path, tiny.SPIN), vsock=VsockConfig(3, uds))) as machine:
        machine.start()
        assert Path(uds).is_socket()
        with pytest.raises(TimeoutError):  # it has no driver
            machine.vsock.connect(5, timeout=0.2)
        listening = machine.vsock.listen(7)
        assert Path(f"{uds}_7").is_socket()
    assert listening.fileno() == -1 and not list(tmp_path.glob("v.sock*"))
    without = create_machine(config(str(tmp_path / "tiny.elf")))
    with without as machine, pytest.raises(ConfigError, match="socket device"):
        machine.vsock  # noqa: B018


def test_an_event_loop_has_it_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncMachine(config(tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO))) as vm:
            await vm.start()
            assert await vm.console.readline() == b"hello\n"
            text = bytes(65 + n % 26 for n in range(10000))
            await vm.console.write(text + b"\n")
            assert await vm.console.readline() == text + b"\n"
            (twin,) = await vm.fork()
            async with twin:
                await twin.console.write(b"alone\n")
                assert await twin.console.readline() == b"alone\n"
            await vm.console.write(b"\4")
            assert await vm.console.readuntil(b"\4") == b"\4"
            end = await vm.wait(PATIENCE)
            assert end is not None and end.kind == "poweroff"

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


# -- a process that somebody has taken over ----------------------------------------------------------------------------


IMPOSTOR = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
events = None
while True:
    data, fds, _, _ = socket.recv_fds(sock, 1 << 17, 8)
    if not data:
        break
    events = events or socket.socket(fileno=fds[1])
    with socket.socket(fileno=fds[0]) as answer:
        answer.send(b'{"ok": {"walls": [], "missing": ""}}')
    if b'"start"' in data:
        events.send(bytes.fromhex(sys.argv[2]))
"""


@pytest.mark.parametrize("isolation", ["thread", "fork"])
def test_the_death_of_a_shares_server_is_an_event(tmp_path: Path, console: tiny.Console, isolation: str) -> None:
    """Once, with what its guest sees from now on; and the machine goes on."""
    shared = tmp_path / "shared"
    shared.mkdir()
    kernel = tiny.make(tmp_path, tiny.drive(0), tiny.say("x"), tiny.ECHO)
    wanted = config(kernel, console, shares=(ShareConfig(str(shared), tag="data"),), isolation=isolation)
    machine: Any = create_machine(wanted)
    with machine:
        assert next(device.name for device in machine.devices) == "share data"
        events = machine.events()
        machine.start()
        assert console.read(1) == b"x"
        holder = machine.pid if isolation == "fork" else os.getpid()
        (server,) = (
            pid
            for text in of_threads("children", holder).values()
            for pid in map(int, text.split())
            if Path(f"/proc/{pid}/comm").read_text() == "pyvmm-fsd\n"
        )
        os.kill(server, signal.SIGKILL)
        assert next(events).kind == "started"
        lost = next(events)
        assert (lost.kind, lost.detail) == (
            "device-lost",
            "share data: its server was killed by signal 9; the guest sees I/O errors on this mount",
        )
        assert machine.state == "running" and machine.console_input(b"\4") == 1
        end = machine.wait(PATIENCE)
        assert end is not None and end.kind == "poweroff"
        assert [event.kind for event in events] == ["poweroff"]


def impostor(folder: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> Any:
    """A machine whose process says that when it is started."""

    def spawn(fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", IMPOSTOR, str(fd), said.hex()], pass_fds=(fd,))

    monkeypatch.setattr(isolated, "spawn", spawn)
    return create_machine(config(tiny.make(folder, tiny.SPIN)))


@pytest.mark.parametrize(
    "said",
    [
        b"x",
        b"[" * 30000,
        b"5",
        b"{}",
        b'{"end": "won", "detail": ""}',
        b'{"end": 5, "detail": ""}',
        b'{"end": "error", "detail": "", "error": 7}',
        b'{"end": "error", "detail": "", "error": {"kind": []}}',
    ],
    ids=range(8),
)
def test_a_process_that_talks_nonsense_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    with impostor(tmp_path, monkeypatch, said) as machine:
        machine.start()
        with pytest.raises(HostError, match="sends invalid answers"):
            machine.wait(PATIENCE)
        assert machine._child.process.wait(PATIENCE) == -signal.SIGKILL


def test_what_it_says_of_its_end_is_no_order_to_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = json.dumps({"end": "poweroff", "detail": "\x1b]0;x\x07\n\r" + "y" * 20000, "error": None})
    with impostor(tmp_path, monkeypatch, said.encode()) as machine:
        machine.start()
        end = machine.wait(PATIENCE)
        assert end.detail.replace("\n", "").isprintable() and len(end.detail) < 5000


@pytest.mark.parametrize("isolation", ["process", "fork"])
def test_a_child_may_have_another_isolation(tmp_path: Path, isolation: str) -> None:
    with create_machine(replace(config(tiny.make(tmp_path, tiny.SPIN)), isolation=isolation)) as source:
        source.start()
        other = {"process": "fork", "fork": "process"}[isolation]
        (child,) = source.fork(isolation=other)
        with child:
            assert child.config.isolation == other and child.state == "running"
            command = Path(f"/proc/{child.pid}/cmdline").read_bytes().split(b"\0")  # type: ignore[attr-defined]
            assert (b"isolated" in command) == (other == "process"), "a fork has its caller's command line"
