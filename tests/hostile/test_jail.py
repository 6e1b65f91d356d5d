"""What a machine's process has left when its guest runs: as /proc says it from outside."""

from __future__ import annotations

import ast
import contextlib
import errno
import fcntl
import itertools
import json
import mmap
import os
import re
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests import tiny
from tests.command import Command, descriptors, links_of, not_for_a_jail, of_threads
from tests.netns import ip, own_network
from tests.unit.test_hotplug import OBEDIENT
from tools.where import PYVMM, ROOT
from vmm import BalloonConfig, DiskConfig, Machine, ShareConfig, VsockConfig, restrict_process, seal_process
from vmm.control.client import ask
from vmm.errors import ConfigError, HostError
from vmm.faststart.record import replace
from vmm.lifecycle import CHILDREN_MAX
from vmm.memory.memfd import freeze, open_memory
from vmm.native import ffi, lib
from vmm.processes import trim_memory
from vmm.processes.broker import Broker
from vmm.processes.forks import fork_request
from vmm.processes.jail import users
from vmm.processes.jail.restrict import CAPABILITIES
from vmm.processes.jailed import Jailed
from vmm.processes.parent import Parent
from vmm.processes.runner import Runner
from vmm.processes.spawn import PACKAGE
from vmm.saving import memory_file
from vmm.saving import verify as whole
from vmm.saving.manifest import read_manifest
from vmm.saving.records import plain
from vmm.virtio.image import Image
from vmm.virtio.vsock.device import Vsock

pytestmark = [
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root has more to give up"),
]

NAMESPACES = ("mnt", "net", "ipc", "uts", "cgroup")


@pytest.fixture(params=["boot", "restore"])
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Command]:
    """A guest that runs for ever, of a machine with a disk and everything else that is opened before."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    kernel = tiny.make(tmp_path, tiny.forever(tiny.say("hello\n")))
    options = ["--kernel", kernel, "--memory", "32M", "--disk", str(disk), "--balloon", "on"]
    if request.param == "restore":
        (tmp_path / "share").mkdir()
        config = replace(
            tiny.config(kernel, disks=(DiskConfig(str(disk)),)),
            balloon=BalloonConfig(),
            shares=(ShareConfig(str(tmp_path / "share")),),
        )
        with Machine(config) as saved:
            saved.start()
            saved.snapshot(str(tmp_path / "warm"))
        options = [str(tmp_path / "warm")]
    command = Command(tmp_path, *options, "--json", verb=request.param)
    command.expect("hello")
    yield command
    command.close()


def fields(status: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}


def status_of(folder: Path) -> dict[str, str]:
    return fields((folder / "status").read_text())


def threads(pid: int) -> list[dict[str, str]]:
    """The status of each."""
    return [fields(text) for text in of_threads("status", pid).values()]


def test_every_thread_is_nobody_and_may_do_nothing(machine: Command) -> None:
    found = threads(machine.process.pid)
    assert len(found) >= 3, "main, loop, vcpu0"
    for status in found:
        (user,) = set(status["Uid"].split())
        (group,) = set(status["Gid"].split())
        assert users.FIRST <= int(user) < users.FIRST + users.COUNT and group == user
        assert status["Groups"] == ""
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"


def test_it_sees_no_file(machine: Command) -> None:
    root = Path(f"/proc/{machine.process.pid}/root")
    assert os.listdir(root) == []
    with pytest.raises(OSError, match="Read-only"):
        (root / "x").mkdir()
    mounts = Path(f"/proc/{machine.process.pid}/mountinfo").read_text().splitlines()
    assert len(mounts) == 1 and " ro," in mounts[0]
    assert os.readlink(f"/proc/{machine.process.pid}/cwd") == "/"


def test_it_is_in_namespaces_of_its_own(machine: Command) -> None:
    for name in NAMESPACES:
        assert os.readlink(f"/proc/{machine.process.pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name
    links = Path(f"/proc/{machine.process.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in links] == ["lo"]


@pytest.fixture
def group() -> Iterator[Path]:
    """One of the test's own, in a hierarchy of version 2."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    if (top := next((mount[1] for mount in mounts if mount[2] == "cgroup2"), None)) is None:
        pytest.skip("no cgroup2 is mounted here")
    made = Path(tempfile.mkdtemp(prefix="pyvmm-test-", dir=top))
    yield made
    deadline = time.monotonic() + 10
    while (made / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    made.rmdir()


@pytest.mark.parametrize("verb", ["boot", "restore"])
def test_the_machine_and_its_helpers_are_in_a_control_group(tmp_path: Path, group: Path, verb: str) -> None:
    """The user's, with its limits.  It could not be removed while one of them is in it."""
    kernel = tiny.make(tmp_path, tiny.forever(tiny.say("hello\n")))
    options = ["--kernel", kernel, "--memory", "32M", "--vsock", f"cid=3,uds={tmp_path}/v"]
    if verb == "restore":
        with Machine(replace(tiny.config(kernel), vsock=VsockConfig(3, f"{tmp_path}/v"))) as saved:
            saved.start()
            saved.snapshot(str(tmp_path / "warm"))
        options = [str(tmp_path / "warm")]
    command = Command(tmp_path, *options, "--cgroup", str(group), "--json", verb=verb)
    try:
        command.expect("hello")
        inside = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in (group / "cgroup.procs").read_text().split()}
        assert "pyvmm-broker" in inside and str(command.process.pid) in (group / "cgroup.procs").read_text().split()
    finally:
        command.close()


def test_a_control_group_that_is_none_is_told(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "No such file"), (tmp_path / "none", "No such file")):
        words = [PYVMM, "boot", "--kernel", "/dev/null", "--cgroup", str(path)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode not in (0, -signal.SIGTERM) and "Traceback" not in done.stderr
        assert f"--cgroup {path}: {reason}" in done.stderr and "cgroups(7)" in done.stderr


def test_it_leaves_no_core_and_grows_no_file(machine: Command) -> None:
    limits = Path(f"/proc/{machine.process.pid}/limits").read_text()
    rows = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()[1:]}
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max open files"] == ["1024", "1024"]
    size, hard = map(int, rows["Max file size"])
    assert size == hard and 0 <= size - (1 << 30) < 4096, "its stderr is a file here, and goes on"
    assert os.stat(f"/proc/{machine.process.pid}/mem").st_uid == 0, (
        "not dumpable: of its own user, nobody may look into it"
    )


@pytest.mark.parametrize(
    ("stdout", "stderr", "most"),
    [("pipe", "pipe", 4 << 20), ("pipe", "file", (1 << 30) + 5), ("file", "pipe", None)],
    ids=["pipes", "log", "console"],
)
def test_no_file_grows_but_the_console_s(tmp_path: Path, stdout: str, stderr: str, most: int | None) -> None:
    """Who takes it over cannot make an image larger: that could be all that the host has room for."""
    disk, log = tmp_path / "disk.img", tmp_path / "log"
    disk.write_bytes(bytes(4 << 20))
    log.write_bytes(b"other")
    command = [PYVMM, "boot", "--kernel", tiny.make(tmp_path, tiny.forever(tiny.say("hello\n"))), "--memory", "32M"]
    with (
        log.open("ab") as file,
        subprocess.Popen(
            [*command, "--disk", str(disk), "--jail", "on"],
            stdin=subprocess.DEVNULL,
            stdout=file if stdout == "file" else subprocess.PIPE,
            stderr=file if stderr == "file" else subprocess.PIPE,
        ) as process,
    ):
        if process.stdout:
            assert process.stdout.readline() == b"hello\n"
        else:
            assert soon_none(lambda: [] if b"hello" in log.read_bytes() else ["no output"]) == []
        text = Path(f"/proc/{process.pid}/limits").read_text()
        process.terminate()
    limits = re.search(r"^Max file size +(\w+) +(\w+) ", text, re.M)
    assert limits and set(limits.groups()) == {"unlimited" if most is None else str(most)}


@pytest.mark.parametrize("most", [*range(6, 25, 3), 26, 500])
def test_a_user_with_few_descriptors(tmp_path: Path, most: int) -> None:
    """There is an error that says so, or a machine, whose limits stand all the same."""
    command = [sys.executable, str(PYVMM), "boot", "--kernel", tiny.make(tmp_path, tiny.POWEROFF), "--memory", "32M"]
    shell = ["sh", "-c", f'ulimit -n {most}; exec "$@"', "sh", *command, "--json"]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    if most > 25:
        assert done.returncode == 0 and "limits" in json.loads(done.stderr.splitlines()[-1])["jail"]
    else:
        assert (done.returncode in (1, 2) and "Too many open files" in done.stderr) or done.returncode == 0


def children(pid: int) -> list[int]:
    """The processes that its first thread has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def soon_none(look: Callable[[], list[str]]) -> list[str]:
    """What is there, once it is nothing: who sees a machine die by kill -9 ends next, and other tests have machines."""
    deadline = time.monotonic() + 60
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


@pytest.mark.parametrize("all_of_it", [False, True])
def test_a_machine_that_stood_still_goes_on(tmp_path: Path, all_of_it: bool) -> None:
    """SIGSTOP for a while: of its process, or of all that it has, as on a suspended host; those go on in any order."""
    (tmp_path / "share").mkdir()
    kernel = tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO)
    options = ["--kernel", kernel, "--memory", "32M", "--vsock", f"uds={tmp_path}/v", "--control", f"{tmp_path}/c"]
    options += ["--share", str(tmp_path / "share"), *(["--net", "user"] if shutil.which("passt") else [])]
    command = Command(tmp_path, *options)
    try:
        command.expect("hello")
        assert ask(f"{tmp_path}/c", "status")["state"] == "running"
        found = [command.process.pid, *(children(command.process.pid) if all_of_it else ())]
        assert not all_of_it or len(found) >= 4, "the machine, its broker, the servers of the share and of the socket"
        for pid in found:
            os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, command.process.pid, os.WSTOPPED | os.WNOWAIT)
        command.type(b"x")
        time.sleep(0.5)  # the time for which it stands still is the subject
        for pid in found:
            os.kill(pid, signal.SIGCONT)
        command.expect("x")
        assert ask(f"{tmp_path}/c", "status")["state"] == "running"
        command.type(b"\4")
        assert command.wait() == 0
    finally:
        command.close()
    assert soon_none(command.leftovers) == []


def traces(folder: Path) -> set[str]:
    """What a machine could leave on the host, but for processes and temporary files."""
    found = {f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if re.search("pyvmm|jail", line)}
    found |= {f"link {name}" for name in os.listdir("/sys/class/net")}
    for place in ("/run/pyvmm", "/sys/fs/cgroup", "/run/netns", str(folder)):
        found |= {str(path) for path in Path(place).rglob("*") if place == str(folder) or "pyvmm" in str(path)}
    return found


@pytest.mark.long
def test_a_hundred_lives_leave_nothing(tmp_path: Path) -> None:
    """Of machines with all that is opened before the jail, which end by themselves, by a signal, and by kill -9."""
    kernel, disk, share = tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO), tmp_path / "disk", tmp_path / "share"
    disk.write_bytes(bytes(1 << 20))
    share.mkdir()
    options = ["--kernel", kernel, "--memory", "32M", "--disk", str(disk), "--share", str(share), "--balloon", "on"]
    options += ["--vsock", f"uds={tmp_path}/v", "--control", f"{tmp_path}/c", "--jail", "on", "--json"]
    if shutil.which("passt"):
        options += ["--net", "user"]
    before = traces(tmp_path)
    for number in range(100):
        command = Command(tmp_path, *options)
        try:
            command.expect("hello")
            if number == 0:
                assert {str(tmp_path / "v"), str(tmp_path / "c")} <= traces(tmp_path) - before
            if number % 4 < 2:
                command.type(b"\4")
                assert command.wait() == 0, command.errors
            else:
                command.process.send_signal(signal.SIGTERM if number % 4 == 2 else signal.SIGKILL)
                assert command.wait() in (143, 137), command.errors
        finally:
            command.close()
        assert soon_none(command.leftovers) == []
        command.temporary.rmdir()
        (tmp_path / f"stderr-{command.mark}").unlink()
    assert soon_none(lambda: sorted(traces(tmp_path) - before)) == []


@pytest.mark.skipif(shutil.which("passt") is None, reason="no passt")
@pytest.mark.parametrize("end", ["power", "signal"])
def test_passt_ends_later_than_its_machine(tmp_path: Path, end: str) -> None:
    """On a busy host; it is waited for with what the list of the jail has."""
    kernel = tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO)
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", "--net", "user", "--jail", "on")
    try:
        command.expect("hello")
        (passt,) = [pid for pid in children(command.process.pid) if "passt" in Path(f"/proc/{pid}/comm").read_text()]
        os.kill(passt, signal.SIGSTOP)
        if end == "power":
            command.type(b"\4")
        else:
            command.process.terminate()
        time.sleep(0.3)  # the machine waits for it now, which nothing shows
        os.kill(passt, signal.SIGCONT)
        assert command.wait() == {"power": 0, "signal": 143}[end], command.errors
    finally:
        command.close()
    assert soon_none(command.leftovers) == []


NO_ROOM = """
import os, sys
from pathlib import Path
from vmm import HostError, Machine
from tests import tiny
folder = Path(sys.argv[1])
with Machine(tiny.config(tiny.make(folder, tiny.SPIN))) as machine:
    machine.start()
    machine.memory.write(0x500000, os.urandom(4 << 20))
    try:
        machine.snapshot(str(folder / "warm"))
    except HostError as error:
        print(error.errno, machine.state, sorted(os.listdir(folder)))
"""


def test_a_snapshot_that_has_no_room_leaves_nothing_and_the_machine_goes_on(tmp_path: Path) -> None:
    mount = ["sh", "-c", f'mount -t tmpfs -o size=2m none {tmp_path} && exec "$@"', "sh"]
    command = ["unshare", "-m", *mount, sys.executable, "-c", NO_ROOM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == f"{errno.ENOSPC} running ['tiny.elf']\n", done.stdout + done.stderr


@pytest.mark.parametrize(
    "options",
    [
        "--disk {d}/file --share {d}/folder --control {d}/c --rng source=/dev/urandom",
        "--disk {d}/file,ro --pmem {d}/other,ro --vsock uds={d}/v --gdb unix:{d}/g --console file:{d}/log",
        "--disk {d}/file,cow=overlay --transport pci --control {d}/c --disks-from {d} --shares-from {d}",
        "--pmem {d}/other --balloon on --hotplug-memory size=128M --max-cpus 2 --stats --rng off",
        "--net tap=t0 --disk {d}/file,ro",
    ],
)
def test_the_descriptors_in_the_jail(tmp_path: Path, options: str) -> None:
    """Of files there are those of docs/security.md, open for what it says."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "log").touch()
    for name in ("file", "other"):
        (tmp_path / name).write_bytes(bytes(2 << 20))
    words = options.format(d=tmp_path).split()
    kernel = tiny.make(tmp_path, tiny.forever(tiny.say("hello\n")))
    with own_network() if "--net" in words else contextlib.nullcontext():
        if "--net" in words:
            ip("tuntap add dev t0 mode tap")
        command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", "--jail", "on", *words)
    try:
        if "--console" in words:
            assert soon_none(lambda: [] if b"hello" in (tmp_path / "log").read_bytes() else ["no output"]) == []
        else:
            command.expect("hello")
        given = {f"{tmp_path}/{name}" for name in ("file", "other") if f"{tmp_path}/{name}" in words}
        assert not_for_a_jail(command.process.pid, tmp_path, given | {str(tmp_path / "log")}) == []
    finally:
        command.close()


def test_two_machines_are_two_users(machine: Command, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    kernel = tiny.make(other, tiny.say("hello\n") + tiny.SPIN)
    command = Command(other, "--kernel", kernel, "--memory", "32M")
    try:
        command.expect("hello")
        mine, its = (status_of(Path(f"/proc/{pid}"))["Uid"] for pid in (machine.process.pid, command.process.pid))
        assert mine != its
    finally:
        command.close()


def test_users_go_round(tmp_path: Path) -> None:
    """Those that are held are never given out again; those whose process has ended are."""
    folder = str(tmp_path / "users")
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: users.claim(folder, count=8), range(8)))
    assert {user for user, _ in claims} == set(range(users.FIRST, users.FIRST + 8))
    with pytest.raises(HostError, match="in use"):
        users.claim(folder, count=8)
    os.close(claims[3][1])
    user, fd = users.claim(folder, count=8)
    assert user == claims[3][0]
    for held in {fd, *(fd for _, fd in claims)} - {claims[3][1]} | {fd}:
        os.close(held)


def test_the_descriptor_of_a_user_writes_nothing(tmp_path: Path) -> None:
    """A machine's process has it in its jail, and could fill /run by another one."""
    folder = str(tmp_path / "users")
    _, fd = users.claim(folder)
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(fd, b"x")
    with pytest.raises(OSError, match="Invalid argument"):
        os.ftruncate(fd, 1)
    os.close(fd)


def test_descriptors_of_page_maps_show_no_physical_addresses() -> None:
    """They stay open in the jail, opened by root before it."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory[0] = 1
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
    plain = os.open("/proc/self/pagemap", os.O_RDONLY)
    fd = lib.jail_open_unprivileged(b"/proc/self/pagemap")
    assert fd >= 0 and lib.jail_open_unprivileged(b"/none") == -errno.ENOENT
    try:
        (seen,) = struct.unpack("Q", os.pread(fd, 8, address // mmap.PAGESIZE * 8))
        (all_,) = struct.unpack("Q", os.pread(plain, 8, address // mmap.PAGESIZE * 8))
        assert seen >> 63 == 1 and seen & (1 << 55) - 1 == 0, "it is there, and nothing says where"
        assert all_ & (1 << 55) - 1, "root sees that"
    finally:
        os.close(fd)
        os.close(plain)
    before = set(links_of())
    trim_memory.open_maps()
    memory_file.open_proc()
    fds = [int(fd) for fd, link in links_of().items() if link.endswith("/pagemap") and fd not in before]
    assert len(fds) == 2
    for each in fds:
        (seen,) = struct.unpack("Q", os.pread(each, 8, address // mmap.PAGESIZE * 8))
        assert seen >> 63 == 1 and seen & (1 << 55) - 1 == 0


def test_off_says_so(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.say("hello\n") + tiny.SPIN)
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", "--jail", "off")
    try:
        command.expect("hello")
        assert status_of(Path(f"/proc/{command.process.pid}"))["Uid"].split()[0] == "0"
    finally:
        command.close()
    assert "no jail: --jail=off" in command.errors


def test_the_end_names_the_walls(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.POWEROFF)
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", "--json")
    assert command.wait() == 0
    event = json.loads(command.errors)
    assert {"user", "capabilities", "no-new-privs", "files", "net-ns", "landlock", "limits"} <= set(event["jail"])


ALL = {
    "disk": "--disk {file}",
    "pmem": "--pmem {file}",
    "pmem-ro": "--pmem {file},ro",
    "share": "--share {folder}",
    "dax": "--share {folder},dax=64M",
    "passt": "--net user",
    "rng": "--rng source=/dev/urandom,bps=64K",
    "no-rng": "--rng off",
    "console": "--console-device virtio",
    "balloon": "--balloon free-page-reporting=on",
    "memory": "--hotplug-memory size=128M",
    "cpus": "--max-cpus 4",
    "vsock": "--vsock uds={folder}/v",
    "gdb": "--gdb unix:{folder}/g",
    "control": "--control {folder}/c",
    "stats": "--stats",
}


@pytest.mark.parametrize("device, end", [*itertools.product(ALL, ("power", "signal")), ("disk", "time")])
def test_every_machine_ends_in_order(tmp_path: Path, device: str, end: str) -> None:
    """What ends it needs no call that its list has not."""
    if device == "passt" and shutil.which("passt") is None:
        pytest.skip("no passt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(bytes(2 << 20))
    kernel = tiny.make(tmp_path, tiny.say("hello\n") + (tiny.POWEROFF if end == "power" else tiny.SPIN))
    options = ALL[device].format(file=tmp_path / "file", folder=tmp_path / "folder").split()
    options += ["--timeout", "1"] if end == "time" else []
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", "--jail", "on", *options)
    try:
        if end == "signal":
            command.expect("hello")
            command.process.terminate()
        assert command.wait() == {"power": 0, "signal": 143, "time": 124}[end], command.errors
    finally:
        command.close()
    assert "system call" not in command.errors
    assert command.leftovers() == []


def test_on_fails_before_the_start_where_it_cannot_be(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.say("hello\n") + tiny.POWEROFF)
    share = f"{tmp_path},tag=a,isolation=thread"
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", "--jail", "on", "--share", share)
    assert command.wait() == 2
    assert "isolation=thread" in command.errors and "hello" not in command.output.decode()


# -- the broker ----------------------------------------------------------------------------------------------------


def broker_of(command: Command) -> int:
    """The process that a machine has outside of its jail."""
    for pid in processes_by_parent(command.process.pid):
        if Path(f"/proc/{pid}/comm").read_text() == "pyvmm-broker\n":
            return pid
    raise AssertionError("no broker")


def processes_by_parent(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.fixture
def with_sockets(tmp_path: Path) -> Iterator[Command]:
    """A machine in a jail whose guest can connect to sockets of the host's."""
    kernel = tiny.make(tmp_path, tiny.say("hello\n") + tiny.ECHO)
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", "--vsock", f"uds={tmp_path}/v", "--json")
    command.expect("hello")
    yield command
    command.close()


def test_a_machine_with_sockets_is_nobody_and_its_broker_has_nothing_of_it(with_sockets: Command) -> None:
    machine, broker = with_sockets.process.pid, broker_of(with_sockets)
    for status in threads(machine):
        assert int(status["Uid"].split()[0]) >= users.FIRST and status["CapEff"] == "0" * 16
    assert os.listdir(f"/proc/{machine}/root") == []
    deadline = time.monotonic() + 60
    # The broker restricts itself while the guest starts.
    while (status := status_of(Path(f"/proc/{broker}")))["Seccomp"] != "2":
        assert time.monotonic() < deadline, status
        time.sleep(0.01)
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {f"{1 << 1:016x}"}, "CAP_DAC_OVERRIDE"
    assert (status["NoNewPrivs"], status["Seccomp"], status["Threads"]) == ("1", "2", "1")
    links = links_of(broker).values()
    assert not [link for link in links if "kvm" in link or "memfd" in link or "event" in link]
    mapped = Path(f"/proc/{broker}/maps").read_text()
    assert "memfd" not in mapped and "python" not in mapped


def test_nothing_is_left_of_a_machine_that_was_killed(with_sockets: Command, tmp_path: Path) -> None:
    broker = os.pidfd_open(broker_of(with_sockets))
    assert {"v", "v.seqpacket"} <= set(os.listdir(tmp_path))
    with_sockets.process.kill()
    with_sockets.process.wait()
    assert select.select([broker], [], [], 60)[0]
    os.close(broker)
    assert not {"v", "v.seqpacket"} & set(os.listdir(tmp_path))


def test_a_machine_ends_with_its_broker(with_sockets: Command) -> None:
    os.kill(broker_of(with_sockets), signal.SIGKILL)
    assert with_sockets.wait() == 1
    assert json.loads(with_sockets.errors)["detail"] == "its broker has ended"


def test_a_machine_with_sockets_ends_in_order(with_sockets: Command, tmp_path: Path) -> None:
    with_sockets.type(b"\4")
    assert with_sockets.wait() == 0
    assert not {"v", "v.seqpacket"} & set(os.listdir(tmp_path))
    assert with_sockets.leftovers() == []


class Captured:
    """A broker, and the machine's end of its socket in the hands of somebody hostile."""

    def __init__(self, folder: Path) -> None:
        self.device = Vsock(VsockConfig(uds=str(folder / "v")))
        self.broker = Broker(self.device)
        self.sock = socket.socket(fileno=os.dup(self.broker._sock.fileno()))
        self.pidfd = os.pidfd_open(self.broker.pid)

    def ask(self, port: int, kind: int = 1) -> tuple[int, list[int]]:
        """The errno, and descriptors, that are the answer."""
        self.sock.send(struct.pack("=II", port, kind))
        data, fds, _, _ = socket.recv_fds(self.sock, 64, 8)
        echoed, error = struct.unpack("=II", data)
        assert echoed == port
        return error, fds

    def has_ended(self) -> bool:
        """Now, or within a minute."""
        return bool(select.select([self.pidfd], [], [], 60)[0])

    def close(self) -> None:
        self.sock.close()
        self.broker.close()
        self.device.close()
        os.close(self.pidfd)


@pytest.fixture
def captured(tmp_path: Path) -> Iterator[Captured]:
    made = Captured(tmp_path)
    yield made
    made.close()


def test_a_broker_connects_to_sockets_of_ports_and_to_nothing_else(captured: Captured, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as program, socket.socket(socket.AF_UNIX) as other:
        program.bind(str(tmp_path / "v_7"))
        program.listen()
        other.bind(str(tmp_path / "secret"))
        other.listen()
        os.symlink(tmp_path / "secret", tmp_path / "v_8")
        (tmp_path / "v_9").write_text("a file")
        error, (fd,) = captured.ask(7)
        os.write(fd, b"x")
        os.close(fd)
        assert error == 0 and program.accept()[0].recv(1) == b"x"
        assert captured.ask(7, kind=2) == (errno.EPROTOTYPE, [])
        assert captured.ask(6) == (errno.ENOENT, [])
        assert captured.ask(8)[1] == captured.ask(9)[1] == captured.ask(0xFFFF_FFFF)[1] == []
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()
        assert not captured.device._listening[0].sock.getblocking()


@pytest.mark.parametrize(
    "message",
    [b"", b"x", bytes(7), bytes(9), bytes(8), struct.pack("=II", 7, 3), b"\0\0\0\0../../../../run/x", b"y" * 60000],
    ids=["empty", "one", "short", "long", "type-0", "type-3", "a-path", "huge"],
)
def test_what_is_no_request_ends_the_broker_and_its_names(captured: Captured, tmp_path: Path, message: bytes) -> None:
    captured.sock.send(message)
    assert captured.has_ended()
    assert not {"v", "v.seqpacket"} & set(os.listdir(tmp_path))


def test_a_broker_takes_no_orders_any_more(captured: Captured, tmp_path: Path) -> None:
    """What it is to remove, and where it connects to, was said before."""
    victim = tmp_path / "victim"
    victim.write_text("")
    info = victim.stat()
    order = struct.pack("=IIQQ256s", lib.BROKER_NAME, 0, info.st_dev, info.st_ino, os.fsencode(victim))
    captured.sock.send(order)
    assert captured.has_ended()
    assert victim.exists()


def test_a_broker_is_not_filled_with_descriptors(captured: Captured) -> None:
    many = [1] * 200
    for _ in range(100):
        try:
            socket.send_fds(captured.sock, [struct.pack("=II", 6, 1)], many, socket.MSG_DONTWAIT)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            break
    assert captured.has_ended(), "a request has none"


def test_a_broker_whose_answers_nobody_takes_waits_and_ends(captured: Captured) -> None:
    captured.sock.setblocking(False)
    sent = 0
    try:
        while sent < 100_000:
            sent += captured.sock.send(struct.pack("=II", 6, 1)) // 8
    except BlockingIOError:
        pass
    assert sent < 100_000
    status = status_of(Path(f"/proc/{captured.broker.pid}"))
    assert int(status["VmHWM"].split()[0]) < 4096, "KiB: nothing piles up in it"
    captured.sock.close()
    captured.broker.close()
    assert captured.has_ended()


# -- a control socket --------------------------------------------------------------------------------------------------


@pytest.fixture
def controlled(tmp_path: Path) -> Iterator[Command]:
    """A machine in a jail, with a disk and a control socket "c"."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"d" * (1 << 20))
    kernel = tiny.make(tmp_path, tiny.say("hello\n") + tiny.ECHO)
    command = Command(
        tmp_path, "--kernel", kernel, "--memory", "32M", "--disk", "../disk.img", "--control", f"{tmp_path}/c",
        "--json",
    )  # fmt: skip
    command.expect("hello")
    yield command
    command.close()


def test_a_machine_in_a_jail_does_what_its_control_socket_says(controlled: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "c")
    assert ask(path, "status")["state"] == "running"
    ask(path, "pause")
    with pytest.raises(ConfigError, match="that is paused"):
        ask(path, "pause")
    told: list[tuple[int, int]] = []
    ask(path, "snapshot", lambda done, size: told.append((done, size)), path=str(tmp_path / "warm"))
    assert told[-1] == (32 << 20, 32 << 20)
    ask(path, "resume")
    for _ in range(2):  # the second takes the place of the first
        ask(path, "snapshot", path=str(tmp_path / "diff"), base=str(tmp_path / "warm"))
    assert not [name for name in os.listdir(tmp_path) if ".pyvmm-" in name]
    ask(path, "snapshot", path=str(tmp_path / "more"), base=str(tmp_path / "diff"))
    with pytest.raises(HostError, match="cannot write"):
        ask(path, "snapshot", path=str(tmp_path / "missing" / "x"))
    ask(path, "snapshot", path=str(tmp_path / "last"), stop=True)
    assert controlled.wait() == 0
    for name in ("warm", "diff", "more", "last"):
        whole.verify_snapshot(str(tmp_path / name))
        assert (tmp_path / name / "disk0").read_bytes() == b"d" * (1 << 20)
    assert controlled.leftovers() == [] and not (tmp_path / "c").exists()
    command = Command(tmp_path, str(tmp_path / "diff"), "--control", path, "--jail", "on", verb="restore")
    command.type(b"x")
    command.expect("x")
    ask(path, "stop")
    assert command.wait() == 20


def test_a_machine_that_does_not_stop_is_killed(controlled: Command, tmp_path: Path) -> None:
    ask(str(tmp_path / "c"), "status")
    os.kill(controlled.process.pid, signal.SIGSTOP)
    ask(str(tmp_path / "c"), "stop")
    assert controlled.wait() == 137
    assert soon_none(controlled.leftovers) == []


@pytest.mark.parametrize("jail", ["on", "off"])
def test_a_machine_gets_vcpus_and_memory(tmp_path: Path, jail: str) -> None:
    kernel, control = tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO), f"{tmp_path}/c"
    more = ["--max-cpus", "3", "--hotplug-memory", "size=128M", "--control", control, "--jail", jail, "--json"]
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", *more)

    def resize(*arguments: str) -> str:
        tool = [sys.executable, str(PYVMM), "resize", control, *arguments]
        done = subprocess.run(tool, capture_output=True, text=True, timeout=60)
        assert done.returncode in (0, 2)
        return "" if done.returncode == 0 else done.stderr

    try:
        command.expect("hello")
        assert resize("--cpus", "3") == ""
        assert ask(control, "status")["cpus"] == 3
        deadline = time.monotonic() + 60
        while sum(status["Name"].startswith("vcpu") for status in threads(command.process.pid)) != 3:
            assert time.monotonic() < deadline, "each vCPU has a thread, which gives itself its name"
            time.sleep(0.01)
        assert resize("96M", "--cpus", "2") == ""
        assert ask(control, "status")["cpus"] == 2
        assert "not 1 to 3" in resize("--cpus", "4")
        assert "give SIZE" in resize() and "'many'" in resize("--cpus", "many") and "not 0 to" in resize("1G")
        command.type(b"x")
        command.expect("x")
        ask(control, "stop")
        assert command.wait() == 20
    finally:
        command.close()
    assert command.leftovers() == [] and "system call" not in command.errors


def test_the_machine_has_nothing_of_its_control_socket(controlled: Command, tmp_path: Path) -> None:
    ask(str(tmp_path / "c"), "status")
    for status in threads(controlled.process.pid):
        assert int(status["Uid"].split()[0]) >= users.FIRST and status["CapEff"] == "0" * 16, status["Name"]
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    sockets = {f"socket:[{line[6]}]" for line in lines if line[-1] == f"{tmp_path}/c"}
    fds = set(links_of(controlled.process.pid).values())
    assert sockets and not sockets & fds
    (server,) = processes_by_parent(controlled.process.pid)
    status = status_of(Path(f"/proc/{server}"))
    kept = ("dac_override", "dac_read_search", "fowner", "kill")
    assert int(status["CapEff"], 16) == sum(1 << CAPABILITIES.index(name) for name in kept)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Seccomp_filters"] == "3", "what is never made, no programs, and its list, since somebody has asked"
    links = links_of(server).values()
    assert not [link for link in links if "kvm" in link or "memfd" in link or "disk" in link]


def machine_with_disks(folder: Path, *options: str, code: bytes = OBEDIENT) -> Command:
    """One on PCI with a control socket "c", which takes disks below "disks"."""
    (folder / "disks").mkdir()
    (folder / "disks" / "a.img").write_bytes(bytes(1 << 20))
    kernel = tiny.make(folder, tiny.say("hello\n"), code)
    where = ["--control", f"{folder}/c", "--disks-from", f"{folder}/disks"]
    command = Command(folder, "--kernel", kernel, "--memory", "32M", "--transport", "pci", *where, *options, "--json")
    command.expect("hello")
    return command


@pytest.mark.parametrize("jail", ["on", "off"])
def test_disks_come_from_where_the_user_said_and_go(tmp_path: Path, jail: str) -> None:
    command, control, disks = machine_with_disks(tmp_path, "--jail", jail), f"{tmp_path}/c", tmp_path / "disks"
    (tmp_path / "other.img").write_bytes(bytes(4096))
    (disks / "link").symlink_to(tmp_path / "other.img")
    (disks / "way").symlink_to(tmp_path)
    os.mkfifo(disks / "fifo")
    (disks / "below").mkdir()
    shutil.copy(disks / "a.img", disks / "below" / "b,b.img")
    wrong = {
        f"{tmp_path}/other.img": "not below", "a.img": "not below", f"{disks}": "not below", f"{disks}/": "not below",
        f"{disks}/../other.img": "not below", f"{disks}/./a.img": "not below", f"{disks}//a.img": "not below",
        f"{disks}/link": "symbolic links", f"{disks}/way/other.img": "Not a directory", f"{disks}/none": "No such file",
        f"{disks}/below": "directory", f"{disks}/fifo": "neither a file", f"{disks}/a.img,cow=overlay": "no overlay",
        f"{disks}/a.img,colour=red": "colour", f"{disks}/a.img\0": "no path can have",
    }  # fmt: skip
    server = processes_by_parent(command.process.pid)
    pids = [command.process.pid, *server]
    try:
        for number in range(35):
            for text, what in wrong.items() if number in (0, 20) else ():
                with pytest.raises(ConfigError, match=what):
                    ask(control, "add-disk", disk=text)
            options = ["", ",ro", ",ro,direct", ",bps=1M,queues=2", ",cache=writethrough"][number % 5]
            ask(control, "add-disk", disk=f"{disks}/a.img{options}")
            assert ask(control, "status")["devices"][-1] == f"disk {disks}/a.img"
            for more in ("", ",ro"):
                with pytest.raises(ConfigError, match="was added already"):
                    ask(control, "add-disk", disk=f"{disks}/a.img{more}")
            assert ask(control, "remove-disk", path=f"{disks}/a.img") == {"removed": True}
            with pytest.raises(ConfigError, match="was not added"):
                ask(control, "remove-disk", path=f"{disks}/a.img")
            if number == 0:
                before = {pid: len(links_of(pid)) for pid in pids}
        # That of an answer is closed when it is read
        assert soon_none(lambda: [str(pid) for pid in pids if len(links_of(pid)) > before[pid]]) == []
        tool = [sys.executable, str(PYVMM), "disk"]
        added = disks / "below" / "b,b.img"
        for size, word, file in (
            (1 << 20, "add", "below/b,,b.img,serial=b"), ((1 << 20) + 5, "resize", "below/b,b.img"),
            (3 << 20, "resize", "below/b,b.img"), (3 << 20, "remove", "below/b,b.img"),
        ):  # fmt: skip
            os.truncate(added, size)
            done = subprocess.run([*tool, word, control, file], cwd=disks, capture_output=True, text=True, timeout=60)
            what = "not a multiple of 512" if size % 512 else ""
            assert done.returncode == (2 if what else 0) and what in done.stderr, "it has looked at the file"
        with pytest.raises(ConfigError, match="does not have it"):
            ask(control, "resize-disk", path=f"{disks}/a.img")
        if jail == "on":
            assert not [link for link in links_of(command.process.pid).values() if str(disks) in link]
        ask(control, "stop")
        assert command.wait() == 20
    finally:
        command.close()


@pytest.mark.parametrize("jail", ["on", "off"])
def test_a_disk_that_the_guest_keeps(tmp_path: Path, jail: str) -> None:
    """It is taken away from it if the user says so; and nobody who waits keeps the machine from its end."""
    command = machine_with_disks(tmp_path, "--jail", jail, code=tiny.SPIN)
    control, path = f"{tmp_path}/c", f"{tmp_path}/disks/a.img"
    tool = [sys.executable, str(PYVMM), "disk", "remove", control, path, "--timeout", "0"]
    try:
        ask(control, "add-disk", disk=path)
        done = subprocess.run(tool, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "has not released it" in done.stderr and "--force" in done.stderr
        assert ask(control, "remove-disk", path=path, seconds=0, force=True) == {"removed": True}
        ask(control, "add-disk", disk=path)
        with pytest.raises(ConfigError, match="seconds is not 0 to"):
            ask(control, "remove-disk", path=path, seconds=-1)
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(ask, control, "remove-disk", path=path, seconds=3600)
            time.sleep(0.2)  # no answer may come
            assert not waits.done()
            ask(control, "stop")
            assert command.wait() == 20
            error = waits.exception(60)
            assert "ended before it answered" in str(error) if error else waits.result() == {"removed": False}
    finally:
        command.close()


def serves(control: str) -> bool:
    """Whether somebody listens there."""
    try:
        ask(control, "status")
    except ConfigError:
        return False
    return True


def wait_until_it_serves(control: str, command: Command) -> None:
    while not serves(control):
        assert command.process.poll() is None, command.errors
        time.sleep(0.01)


def check_starter(server: int) -> None:
    """The child of who serves the control socket starts servers, and has what that takes."""
    (starter,) = named(processes_by_parent(server), "pyvmm-shares")
    status = status_of(Path(f"/proc/{starter}"))
    # What servers keep, and for what they do first: their namespaces, and giving up the rest
    kept = {"chown", "dac_override", "fowner", "fsetid", "setgid", "setuid", "setfcap", "dac_read_search"}
    kept |= {"sys_admin", "setpcap"}
    mask = sum(1 << CAPABILITIES.index(name) for name in kept)
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {mask}
    assert (status["CapInh"], status["CapAmb"]) == ("0" * 16, "0" * 16)
    assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "2"), (
        "what is never made, and its list"
    )
    limits = Path(f"/proc/{starter}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.M) and re.search(r"^Max open files +64 ", limits, re.M)
    assert os.stat(f"/proc/{starter}/mem").st_uid == 0
    for name in ("ipc", "uts"):
        assert os.readlink(f"/proc/{starter}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name


@pytest.mark.parametrize("verb", ["boot", "restore"])
@pytest.mark.parametrize("jail", ["on", "off"])
def test_shares_come_from_where_the_user_said_and_go(tmp_path: Path, jail: str, verb: str) -> None:
    """In a jail a third process starts the server of each, which the one that serves the socket may not."""
    shares, control = tmp_path / "shares", f"{tmp_path}/c"
    (shares / "below" / "b,b").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (shares / "link").symlink_to(tmp_path / "other")
    (shares / "file").touch()
    kernel = tiny.make(tmp_path, OBEDIENT)
    first = ["--kernel", kernel, "--memory", "32M", "--transport", "pci", "--share", f"{tmp_path}/other"]
    if verb == "restore":
        first = [str(tmp_path / "warm")]
        config = replace(tiny.config(kernel), shares=(ShareConfig(f"{tmp_path}/other"),), transport="pci")
        with Machine(config) as saved:
            saved.start()
            saved.snapshot(first[0])
    where = ["--control", control, "--shares-from", str(shares)]
    command = Command(tmp_path, *first, *where, "--jail", jail, "--json", verb=verb)
    wrong = {
        f"{tmp_path}/other": "not below", str(shares): "not below", f"{shares}/../other": "not below",
        f"{shares}/link": "Not a directory|symbolic links", f"{shares}/file": "Not a directory",
        f"{shares}/none": "No such file", f"{shares}/below,tag=share": "of that tag",
        f"{shares}/below,dax=2M": "window", f"{shares}/below,colour=red": "colour",
    }  # fmt: skip
    try:
        wait_until_it_serves(control, command)
        for number in range(6):
            for text, what in wrong.items() if number in (0, 5) else ():
                with pytest.raises(ConfigError, match=what):
                    ask(control, "add-share", share=text)
            options, tag = [("", "share1"), (",ro,tag=data,cache=none", "data")][number % 2]
            assert ask(control, "add-share", share=f"{shares}/below{options}") == {"tag": tag}
            assert ask(control, "status")["devices"][-1] == f"share {tag}"
            with pytest.raises(ConfigError, match="the machine has it"):
                ask(control, "add-share", share=f"{shares}/below")
            assert ask(control, "add-share", share=f"{shares}/below/b,,b,queues=2") == {
                "tag": ["share2", "share1"][number % 2]
            }
            for path in ("below", "below/b,b"):
                assert ask(control, "remove-share", path=f"{shares}/{path}") == {"removed": True}
            with pytest.raises(ConfigError, match="was not added"):
                ask(control, "remove-share", path=f"{shares}/below")
            pids = [command.process.pid, *processes_by_parent(command.process.pid)]
            if number == 0:
                before = {pid: len(links_of(pid)) for pid in pids}
        assert {*pids} == {*before}, "no server is left"
        if jail == "on":
            check_starter(pids[1])
        assert soon_none(lambda: [str(pid) for pid in pids if len(links_of(pid)) > before[pid]]) == []
        tool = [sys.executable, str(PYVMM), "share"]
        for word, folder, text in (("add", "below/b,,b,ro", "share1\n"), ("remove", "below/b,b", "")):
            done = subprocess.run(
                [*tool, word, control, folder], cwd=shares, capture_output=True, text=True, timeout=60
            )
            assert (done.returncode, done.stdout) == (0, text), done.stderr
        if jail == "on":
            assert not [link for link in links_of(command.process.pid).values() if str(shares) in link]
        ask(control, "add-share", share=f"{shares}/below")
        ask(control, "stop")
        assert command.wait() == 20
        assert soon_none(lambda: [pid for pid in map(str, pids) if Path(f"/proc/{pid}").exists()]) == []
    finally:
        command.close()


AS_USER = 'mount --bind "$1" /dev/kvm; shift; exec setpriv --reuid 1000 --regid 1000 --clear-groups "$@"'


def test_shares_come_for_an_ordinary_user(tmp_path: Path) -> None:
    """Who starts their servers may do nothing; each has a user namespace, and a PID namespace, of its own."""
    node = tmp_path / "kvm"
    os.mknod(node, stat.S_IFCHR | 0o666, os.stat("/dev/kvm").st_rdev)
    os.chmod(node, 0o666)
    with tempfile.TemporaryDirectory() as name:
        folder, control = Path(name), f"{name}/c"
        kernel = tiny.make(folder, OBEDIENT)
        (folder / "shares" / "a").mkdir(parents=True)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 1000, 1000)
        boot = [sys.executable, str(PYVMM), "boot", "--kernel", kernel, "--memory", "32M", "--transport", "pci"]
        boot += ["--control", control, "--shares-from", f"{folder}/shares", "--jail", "on"]
        command = ["unshare", "--mount", "sh", "-e", "-c", AS_USER, "sh", str(node), *boot]
        with subprocess.Popen(
            command, cwd=folder, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            try:
                while process.poll() is None and not serves(control):
                    time.sleep(0.01)
                assert ask(control, "fork")["children"] == [{"control": f"{control}.1", "vsock": ""}]
                (child,) = machines(process.pid)
                for pid in (process.pid, child):
                    assert {each["CapEff"] for each in threads(pid)} == {"0" * 16} and os.listdir(
                        f"/proc/{pid}/root"
                    ) == []
                check_users_starter(process.pid, control, f"{folder}/shares/a")
                ask(control, "stop")
                assert process.wait(60) == 20, process.communicate()[1]
            finally:
                process.kill()


@contextlib.contextmanager
def in_pipes(folder: Path, uid: int, *options: str) -> Iterator[int]:
    """The process id of a machine of user *uid* with a control socket "c"; its stdout and stderr are pipes."""
    node = folder / "kvm"
    os.mknod(node, stat.S_IFCHR | 0o666, os.stat("/dev/kvm").st_rdev)
    os.chmod(node, 0o666)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid)
    boot = [sys.executable, str(PYVMM), "boot", "--memory", "32M", "--control", f"{folder}/c", "--jail", "on", *options]
    command = ["unshare", "--mount", "sh", "-e", "-c", AS_USER.replace("1000", str(uid)), "sh", str(node), *boot]
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdin=null, stdout=pipe, stderr=pipe) as process:
        try:
            while process.poll() is None and not serves(f"{folder}/c"):
                time.sleep(0.01)
            assert process.poll() is None, process.communicate()
            yield process.pid
            ask(f"{folder}/c", "stop")
            assert process.wait(60) == 20, process.communicate()
        finally:
            process.kill()


@pytest.mark.parametrize("uid", [0, 1000], ids=["root", "user"])
def test_disks_that_come_make_no_file_larger_than_they_are(uid: int) -> None:
    """Who takes a machine over fills no file system by a disk; the server of the control socket raises the limit to
    what a disk has that is plugged in or grows."""
    with tempfile.TemporaryDirectory() as name:
        folder, disks = Path(name), f"{name}/disks"
        os.mkdir(disks)
        for which, size in (("small", 1 << 20), ("large", 100 << 20), ("unwritten", 200 << 20)):
            Path(disks, which).touch()
            os.truncate(f"{disks}/{which}", size)
        options = ["--kernel", tiny.make(folder, OBEDIENT), "--transport", "pci", "--disks-from", disks]
        with in_pipes(folder, uid, *options) as pid:

            def most() -> str:
                limits = Path(f"/proc/{pid}/limits").read_text()
                return next(line.split()[3] for line in limits.splitlines() if line.startswith("Max file size"))

            assert most() == str(64 << 20), "as without the option: what a snapshot may need"
            for disk, size in (("small", 64), ("unwritten,ro", 64), ("large", 100)):
                ask(f"{folder}/c", "add-disk", disk=f"{disks}/{disk}")
                assert most() == str(size << 20)
            os.truncate(f"{disks}/small", 120 << 20)
            ask(f"{folder}/c", "resize-disk", path=f"{disks}/small")
            assert most() == str(120 << 20)


def test_the_descriptors_in_the_jail_of_an_ordinary_user() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in ("file", "other"):
            (folder / each).write_bytes(bytes(2 << 20))
        kernel = tiny.make(folder, OBEDIENT)
        with in_pipes(folder, 1000, "--kernel", kernel, "--disk", f"{name}/file", "--pmem", f"{name}/other,ro") as pid:
            assert not_for_a_jail(pid, folder, {f"{name}/file"}) == []


@pytest.mark.parametrize("options", ["", "--cow overlay", "--cow copy", "--prefetch"])
def test_the_descriptors_in_the_jail_of_a_clone(tmp_path: Path, options: str) -> None:
    """Its template's memory is open for reading, and so is the disk of it that others have, too."""
    (tmp_path / "file").write_bytes(bytes(2 << 20))
    config = tiny.config(tiny.make(tmp_path, OBEDIENT))
    with Machine(replace(config, disks=(DiskConfig(str(tmp_path / "file")),))) as saved:
        saved.start()
        saved.snapshot(str(tmp_path / "warm"))
    words = [str(tmp_path / "warm"), "--control", f"{tmp_path}/c", *options.split(), "--jail"]
    for jail in ("off", "on") if options == "--prefetch" else ("on",):  # the first one records
        command = Command(tmp_path, *words, jail, verb="restore")
        try:
            wait_until_it_serves(f"{tmp_path}/c", command)
            assert jail == "off" or not_for_a_jail(command.process.pid, tmp_path, set()) == []
            ask(f"{tmp_path}/c", "stop")
            assert command.wait() == 20
        finally:
            command.close()


def check_users_starter(machine: int, control: str, share: str) -> None:
    ask(control, "add-share", share=share)
    (server,) = processes_by_parent(machine)
    (starter,) = named(processes_by_parent(server), "pyvmm-shares")
    (fsd,) = processes_by_parent(starter)
    for pid, filters in ((starter, "2"), (fsd, "3")):  # what is never made, and their lists
        status = status_of(Path(f"/proc/{pid}"))
        assert (status["CapEff"], status["CapPrm"]) == ("0" * 16, "0" * 16)
        assert (status["NoNewPrivs"], status["Seccomp_filters"]) == ("1", filters)
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0, "not dumpable"
    assert len(status["NSpid"].split()) == 2
    namespaces = [os.readlink(f"/proc/{pid}/ns/user") for pid in (starter, fsd)]
    assert namespaces[0] != namespaces[1]


def test_a_clone_of_a_machine_that_took_no_shares_gets_one(tmp_path: Path) -> None:
    """Its memory can be shared, which that of its template could not."""
    control, kernel = f"{tmp_path}/c", tiny.make(tmp_path, OBEDIENT)
    with Machine(replace(tiny.config(kernel), transport="pci")) as saved:
        saved.start()
        saved.snapshot(str(tmp_path / "warm"))
    (tmp_path / "below").mkdir()
    options = ["--control", control, "--shares-from", str(tmp_path), "--jail", "on", "--json"]
    command = Command(tmp_path, str(tmp_path / "warm"), *options, verb="restore")
    try:
        wait_until_it_serves(control, command)
        assert ask(control, "add-share", share=f"{tmp_path}/below") == {"tag": "share"}
        assert ask(control, "remove-share", path=f"{tmp_path}/below") == {"removed": True}
        ask(control, "stop")
        assert command.wait() == 20
    finally:
        command.close()


def test_a_machine_that_was_told_nothing_takes_no_disk(controlled: Command, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accepts no disks") as caught:
        ask(f"{tmp_path}/c", "add-disk", disk=f"{tmp_path}/disk.img")
    assert "--disks-from" in caught.value.hint
    assert ask(f"{tmp_path}/c", "status")["state"] == "running"
    kernel, control = str(tmp_path / "tiny.elf"), ["--control", f"{tmp_path}/d"]
    for options, text in (
        (["--transport", "pci"], "give --control"),
        (control, "--transport pci"),
        ([*control, "--transport", "pci", "--disks-from", f"{tmp_path}/none"], "No such file"),
        ([*control, "--transport", "pci", "--disks-from", kernel], "Not a directory"),
    ):
        command = [sys.executable, str(PYVMM), "boot", "--kernel", kernel, "--disks-from", str(tmp_path), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("which", ["machine", "server"])
def test_neither_outlives_the_other(controlled: Command, tmp_path: Path, which: str) -> None:
    (server,) = processes_by_parent(controlled.process.pid)
    pidfd = os.pidfd_open(server)
    os.kill(controlled.process.pid if which == "machine" else server, signal.SIGKILL)
    assert controlled.wait() == (137 if which == "machine" else 1)
    assert select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)
    if which == "machine":
        assert not (tmp_path / "c").exists()
    else:
        assert json.loads(controlled.errors)["detail"] == "the process of its control socket has ended"


# -- forks -------------------------------------------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    """All processes that a process has started, and these, and so on."""
    found = []
    for child in processes_by_parent(pid):
        found += [child, *descendants(child)]
    return found


def named(pids: list[int], name: str) -> list[int]:
    return [pid for pid in pids if status_of(Path(f"/proc/{pid}"))["Name"] == name]


def machines(pid: int) -> list[int]:
    """Processes with a vCPU, below *pid*."""
    return [each for each in descendants(pid) if any(one["Name"] == "vcpu0" for one in threads(each))]


@pytest.fixture
def forked(tmp_path: Path) -> Iterator[Command]:
    """A machine in a jail with sockets, disks and a control socket "c", which was forked into two."""
    for name in ("disk", "below"):
        (tmp_path / f"{name}.img").write_bytes(b"d" * (1 << 20))
    kernel = tiny.make(tmp_path, tiny.say("hello\n") + tiny.ECHO)
    disks = ["--disk", "../disk.img,cow=copy", "--disk", f"{tmp_path}/below.img,cow=overlay"]
    where = ["--vsock", f"cid=3,uds={tmp_path}/v", "--control", f"{tmp_path}/c"]
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", *disks, *where, "--json", "--jail", "on")
    try:
        command.expect("hello")
        done = subprocess.run([PYVMM, "fork", f"{tmp_path}/c", "-n", "2"], capture_output=True, text=True, timeout=100)
        assert (done.stdout.split(), done.stderr) == ([f"{tmp_path}/c.1", f"{tmp_path}/c.2"], "")
        yield command
    finally:
        command.close()


ITS_FILES = {"below.img", "disk.img", "tiny.elf"}


def names(folder: Path) -> set[str]:
    return {name for name in os.listdir(folder) if not name.startswith(("tmp-", "stderr-"))}


def test_children_of_a_machine_in_a_jail_are_in_jails_of_their_own(forked: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "c")
    (deeper,) = ask(f"{path}.2", "fork")["children"]
    assert deeper == {"control": f"{path}.2.1", "vsock": f"{tmp_path}/v.2.1"}
    everybody = [forked.process.pid, *machines(forked.process.pid)]
    assert len(everybody) == 4
    for pid in everybody:
        for status in threads(pid):
            assert int(status["Uid"].split()[0]) >= users.FIRST and status["Groups"] == "", status["Name"]
            assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16} and status["Seccomp"] == "2"
        assert os.listdir(f"/proc/{pid}/root") == []
        assert not [link for link in links_of(pid).values() if "machine-" in link]
    assert len({status_of(Path(f"/proc/{pid}"))["Uid"] for pid in everybody}) == 4, "no two have one user"
    for place in (path, f"{path}.1", f"{path}.2", f"{path}.2.1"):
        assert ask(place, "status")["state"] == "running"
    forked.type(b"x")
    forked.expect("x")
    ask(f"{path}.1", "snapshot", path=str(tmp_path / "warm"))
    for number in (0, 1):
        assert (tmp_path / "warm" / f"disk{number}").read_bytes() == b"d" * (1 << 20)
    ask(f"{path}.2", "stop")
    assert soon_none(lambda: [name for name in os.listdir(tmp_path) if ".2" in name]) == [], "nor is its child"
    assert ask(f"{path}.1", "status")["state"] == "running"
    ask(path, "stop")
    assert forked.wait() == 20, forked.errors
    assert forked.leftovers() == [] and names(tmp_path) == {*ITS_FILES, "warm"}


def test_a_fork_that_cannot_be_is_none(forked: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "c")
    (tmp_path / "c.4").mkdir()
    with pytest.raises(ConfigError, match=r"c\.4"):
        ask(path, "fork", n=2)  # the third cannot be made then, which could
    assert not (tmp_path / "c.3").exists() and len(machines(forked.process.pid)) == 2
    for number in (0, -1):
        with pytest.raises(ConfigError, match=f"{number} children"):
            ask(path, "fork", n=number)
    assert ask(path, "fork")["children"] == [{"control": f"{path}.5", "vsock": f"{tmp_path}/v.5"}]
    assert ask(path, "status")["state"] == "running"


def test_who_makes_forks_gives_up_what_it_does_not_need(forked: Command, tmp_path: Path) -> None:
    """What runs programs for it has a socket and what its parent is, and no part of the machine."""
    (forks,) = named(descendants(forked.process.pid), "pyvmm-forks")[:1]
    status = status_of(Path(f"/proc/{forks}"))
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16)
    assert int(status["CapEff"], 16) == sum(1 << CAPABILITIES.index(name) for name in ("dac_override", "kill"))
    assert os.stat(f"/proc/{forks}/mem").st_uid == 0, "not dumpable"
    (runner,) = named(processes_by_parent(forks), "pyvmm-runner")
    assert processes_by_parent(runner) == []
    parent, sock = sorted(link for number, link in links_of(runner).items() if int(number) > 2)
    assert sock.startswith("socket:") and parent.startswith("/memfd:machine-parent")
    assert set(machines(forks)) == {*processes_by_parent(forks)} - {runner}
    os.kill(forks, signal.SIGTERM)
    assert len(ask(str(tmp_path / "c"), "fork")["children"]) == 1, "it ends with the machine"
    stopped = machines(forks)[-1]
    os.kill(stopped, signal.SIGSTOP)
    ask(str(tmp_path / "c"), "stop")
    assert forked.wait() == 20
    assert soon_none(forked.leftovers) == [], "a child that does not end is killed"


RUNNER = """
import os, socket, struct, sys
from vmm import BootConfig, MachineConfig
from vmm.processes import runner as module
from vmm.processes.parent import Parent
module.program = lambda *fds: sys.argv[2:]
parent = Parent(MachineConfig(BootConfig("kernel")), "c", "auto")
runner = module.Runner(parent)
def send(data, fds):
    try:
        runner._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"={len(fds)}i", *fds))])
        return runner._sock.recv(100)
    except OSError as error:
        return error.strerror
ours, theirs = socket.socketpair()
wrong = {"run": None, "two": (b"r", [0, 1]), "none": (b"r", []), "long": (b"rr", [0])}[sys.argv[1]]
if wrong:
    print(send(*wrong))
try:
    process = runner.run(theirs.fileno())
except OSError as error:
    print(error.strerror)
else:
    theirs.close()
    print(ours.makefile().read().split(), process.wait(10))
try:
    runner._sock.close()
    os.waitpid(-1, 0)
    os.waitpid(-1, 0)
except ChildProcessError:
    print("no child")
"""


@pytest.mark.parametrize("what", ["run", "two", "none", "long"])
def test_what_runs_programs_takes_one_descriptor_alone(what: str) -> None:
    """A program gets that and what its parent is, and is the child of who asks.  Of anything else it ends."""
    program = ["/bin/sh", "-c", "for fd in 0 1 2 3 4 5 6 7; do [ -e /proc/$$/fd/$fd ] && echo $fd; done >&3; exit 7"]
    command = [sys.executable, "-c", RUNNER, what, *program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    told = done.stdout.splitlines()
    if what == "run":
        assert told == ["['0', '1', '2', '3', '4'] 7", "no child"], done.stdout + done.stderr
    else:
        assert told == ["b''", "Broken pipe", "no child"], done.stdout + done.stderr


def test_a_program_that_is_not_there_is_not_run() -> None:
    command = [sys.executable, "-c", RUNNER, "run", "/nowhere/pyvmm"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "No such file or directory\nno child\n", done.stderr


def test_helpers_have_given_up_what_they_can(tmp_path: Path) -> None:
    """All processes of a machine in a jail and of its children, whether they were asked for something or not."""
    (tmp_path / "share").mkdir()
    kernel = tiny.make(tmp_path, tiny.say("hello\n") + tiny.SPIN)
    where = ["--vsock", f"cid=3,uds={tmp_path}/v", "--control", f"{tmp_path}/c", "--share", f"{tmp_path}/share"]
    more = ["--transport", "pci", "--shares-from", str(tmp_path), "--disks-from", str(tmp_path)]
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", *where, *more, "--jail", "on")
    try:
        command.expect("hello")
        for wanted in (1, 2):
            everybody = [command.process.pid, *descendants(command.process.pid)]
            shown = [status_of(Path(f"/proc/{pid}")) for pid in everybody]
            helpers = ["broker", "control", "forks", "fsd"] * wanted + ["shares"] + ["runner"] * (wanted - 1)
            assert sorted(each["Name"] for each in shown if "pyvmm-" in each["Name"]) == sorted(
                f"pyvmm-{name}" for name in helpers
            )
            for status in shown:
                assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1"), status["Name"]
                assert not int(status["CapBnd"], 16) & 1 << CAPABILITIES.index("sys_module"), status["Name"]
            if wanted == 1:
                assert len(ask(f"{tmp_path}/c", "fork")["children"]) == 1
    finally:
        command.close()


def runner_and_parent(tmp_path: Path) -> Parent:
    """What makes forks of a machine with two disks, one of which it may write."""
    for name in ("one", "two", "other"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    disks = (DiskConfig(str(tmp_path / "one")), DiskConfig(str(tmp_path / "two"), read_only=True))
    return Parent(tiny.config(tiny.make(tmp_path, tiny.SPIN), disks=disks), str(tmp_path / "c"), "on")


def handed(tmp_path: Path) -> list[int]:
    """Files as a child is given."""
    fds = [open_memory(name, 4096) for name in ("ram", "state", "pages")]
    for fd in fds:
        freeze(fd)
    return [*fds, os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)]


ABOUT: dict[str, Any] = {"disks": [0], "areas": None, "files": 4}
REQUEST: dict[str, Any] = {"command": "make", "number": 7, "fork": ABOUT, "package": PACKAGE}
NO_REQUESTS: dict[str, dict[str, Any]] = {
    "another kernel": REQUEST | {"config": {"boot": {"kernel": "/etc/passwd"}}},
    "another jail": REQUEST | {"serve": {"control": "/run/c", "jail": "off"}},
    "a snapshot": REQUEST | {"restore": {"path": "/", "changes": {}, "options": {}}},
    "no number": REQUEST | {"number": "7/../../x"},
    "number 0": REQUEST | {"number": 0},
    "a number that is true": REQUEST | {"number": True},
    "number 2^31": REQUEST | {"number": 1 << 31},
    "no fork": REQUEST | {"fork": None},
    "another package": REQUEST | {"package": "/tmp"},
    "without its disk": REQUEST | {"fork": ABOUT | {"disks": [], "files": 3}},
    "the disk that it may not write": REQUEST | {"fork": ABOUT | {"disks": [1]}},
    "areas of no memory": REQUEST | {"fork": ABOUT | {"areas": [[0, "x"]]}},
    "areas without a file": REQUEST | {"fork": ABOUT | {"areas": [[0, 4096]]}},
    "other files": REQUEST | {"fork": ABOUT | {"files": 5}},
    "nothing": {},
}


def test_a_request_for_a_child_says_what_differs(tmp_path: Path) -> None:
    parent = runner_and_parent(tmp_path)
    copy, fds = Parent.read(parent.write()), handed(tmp_path)
    assert copy.config == parent.config and copy.serves(7) == {"control": f"{tmp_path}/c.7", "jail": "on"}
    assert copy.child(REQUEST, fds)["config"] == plain(parent.config)
    for index, wrong in ((0, os.memfd_create("ram")), (3, os.open(tmp_path / "other", os.O_RDWR)), (3, os.dup(0))):
        with pytest.raises(ConfigError, match=r"an invalid request for a child: .* (write to|without a name)$"):
            copy.child(REQUEST, [*fds[:index], wrong, *fds[index + 1 :]])
        os.close(wrong)
    for fd in fds:
        os.close(fd)
    told = parent.write()
    with pytest.raises(PermissionError):
        os.pwrite(told, b"x", 0)
    os.close(told)


@pytest.mark.parametrize("what", NO_REQUESTS)
def test_who_has_taken_over_the_maker_of_forks_gets_no_other_machine(tmp_path: Path, what: str) -> None:
    """The program that is run for it refuses what is no child of its machine."""
    runner, fds = Runner(runner_and_parent(tmp_path)), handed(tmp_path)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    answers, answer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, answers, answer:
        process = runner.run(theirs.fileno())
        theirs.close()
        socket.send_fds(ours, [json.dumps(NO_REQUESTS[what]).encode()], [answer.fileno(), answer.fileno(), *fds])
        answer.close()
        told = json.loads(answers.recv(4096))
        assert told["config"] is True and told["error"].startswith("an invalid request for a child: ")
        assert process.wait(60) == 0
    runner._sock.close()
    os.wait()
    assert sorted(names(tmp_path)) == ["one", "other", "tiny.elf", "two"]
    for fd in fds:
        os.close(fd)


ELSEWHERE = """
import os, sys
from vmm.cli.main import main
from vmm.processes import forks
def taken_over(self, n, first):
    place = os.environ["ELSEWHERE"]
    if first == 1:
        os.open(place + "/made", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.unlink(place + "/there")
forks._Forking._made = taken_over
sys.exit(main(sys.argv[1:]))
"""


def test_who_has_taken_over_the_maker_of_forks_makes_no_file_elsewhere(tmp_path: Path) -> None:
    """But beside disks and the control socket, as root."""
    place, here = tmp_path / "elsewhere", tmp_path / "here"
    place.mkdir()
    here.mkdir()
    (place / "there").touch()
    boot = ["boot", "--kernel", tiny.make(here, tiny.SPIN), "--memory", "32M", "--control", f"{here}/c"]
    command = [sys.executable, "-c", ELSEWHERE, *boot, "--timeout", "60"]
    environment = {**os.environ, "ELSEWHERE": str(place), "TMPDIR": str(here)}
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, env=environment) as process:
        while not (here / "c").exists() and process.poll() is None:
            time.sleep(0.01)
        for _ in ("make", "remove"):
            with pytest.raises(HostError, match="Permission denied"):
                ask(f"{here}/c", "fork")
        assert os.listdir(place) == ["there"] and ask(f"{here}/c", "status")["state"] == "running"
        ask(f"{here}/c", "stop")
        assert process.wait(60) == 20


@pytest.mark.parametrize("at_once", [True, False])
def test_a_machine_has_many_children_at_a_time(tmp_path: Path, at_once: bool) -> None:
    """More threads than the C library gives memory of their own without a question."""
    kernel = tiny.make(tmp_path, tiny.say("hello\n"))
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", "--control", f"{tmp_path}/c", "--timeout", "900")
    try:
        command.expect("hello")
        path, count = f"{tmp_path}/c", 64 if at_once else 20
        for n in (10**9, CHILDREN_MAX + 1, 0):
            with pytest.raises(ConfigError, match=f"a fork into {n} children"):
                ask(path, "fork", n=n)
        if at_once:
            made = ask(path, "fork", n=count)["children"]
        else:
            made = [child for _ in range(count) for child in ask(path, "fork")["children"]]
        assert [child["control"] for child in made] == [f"{path}.{number}" for number in range(1, count + 1)]
        with pytest.raises(ConfigError, match=f"{CHILDREN_MAX - count + 1} children beside {count} that run"):
            ask(path, "fork", n=CHILDREN_MAX - count + 1)
        for child in made[:: 1 if count < 64 else 16]:
            assert ask(child["control"], "status")["state"] == "running"
        ask(path, "stop")
        assert command.wait() == 20
        assert soon_none(command.leftovers) == []
    finally:
        command.close()


FEW = """
import resource, sys
from pathlib import Path
from tests import tiny
from tests.command import Command
from vmm import HostError
from vmm.control.client import ask
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
folder = Path(sys.argv[1])
control = ["--control", str(folder / "c"), "--jail", "on"]
command = Command(folder, "--kernel", tiny.make(folder, tiny.say("hello\\n")), "--memory", "32M", *control)
command.expect("hello")
made = [child["control"] for child in ask(str(folder / "c"), "fork", n=4)["children"]]
for n in (20, 19, 18, 17):
    try:
        ask(str(folder / "c"), "fork", n=n)
    except HostError as error:
        print(n, error.code, "Too many open files" in str(error))
print({ask(path, "status")["state"] for path in made}, len(ask(str(folder / "c"), "fork")["children"]))
ask(str(folder / "c"), "stop")
print(command.wait(), command.leftovers())
"""


def test_a_fork_for_which_there_are_no_descriptors_leaves_the_children_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FEW, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)
    *refused, states, end = done.stdout.splitlines() or ["", ""]
    assert [line.split()[0] for line in refused] == ["20", "19", "18", "17"], done.stdout + done.stderr
    assert all(line.endswith("True") for line in refused), refused
    assert (states, end) == ("{'running'} 1", "20 []")


@pytest.mark.parametrize("which", ["machine", "server", "forks", "runner", "child", "child's server"])
def test_nothing_is_left_of_a_fork_whose_parts_are_killed(forked: Command, tmp_path: Path, which: str) -> None:
    (server,) = named(descendants(forked.process.pid), "pyvmm-control")[:1]
    (forks,) = processes_by_parent(server)
    (runner,) = named(processes_by_parent(forks), "pyvmm-runner")
    child = machines(forked.process.pid)[0]
    other = named(processes_by_parent(child), "pyvmm-control")[0]
    victim = {"machine": forked.process.pid, "server": server, "forks": forks, "runner": runner}
    victim |= {"child": child, "child's server": other}
    os.kill(victim[which], signal.SIGKILL)
    if which in ("machine", "server"):
        assert forked.wait() == (137 if which == "machine" else 1)
    else:
        others = {f"{name}.2{end}" for name, end in (("c", ""), ("v", ""), ("v", ".seqpacket"))}
        left = {"forks": set(), "runner": others | {name.replace("2", "1", 1) for name in others}}.get(which, others)
        its = {*ITS_FILES, "c", "v", "v.seqpacket", *left}
        assert soon_none(lambda: sorted(names(tmp_path) - its)) == []
        forked.type(b"x")
        forked.expect("x")
        if which in ("forks", "runner"):
            with pytest.raises(HostError, match="has ended" if which == "forks" else "Broken pipe"):
                ask(str(tmp_path / "c"), "fork")
        else:
            assert ask(f"{tmp_path}/c.2", "status")["state"] == "running"
            ask(str(tmp_path / "c"), "fork")
        forked.type(b"\4")
        assert forked.wait() == 0
    assert soon_none(forked.leftovers) == []
    assert soon_none(lambda: sorted(names(tmp_path) - ITS_FILES)) == []


def test_a_child_that_does_not_end_with_who_started_it_is_killed(forked: Command, tmp_path: Path) -> None:
    """As one that its guest has taken over."""
    child = machines(forked.process.pid)[0]
    pidfd = os.pidfd_open(child)
    forks = named(descendants(forked.process.pid), "pyvmm-forks")[0]
    os.kill(child, signal.SIGSTOP)
    os.kill(forks, signal.SIGKILL)
    assert select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)
    assert soon_none(lambda: sorted(names(tmp_path) - {*ITS_FILES, "c", "v", "v.seqpacket"})) == []
    assert ask(str(tmp_path / "c"), "status")["state"] == "running"


@pytest.mark.parametrize(
    "asked", [b"", b"{", b"[1]", b"[1, 2, 3]", b"[true, 1]", b'["1", 1]', b"[-1, 1]", b"[" * 9999, b"\xff"]
)
def test_a_request_for_forks_that_is_none(asked: bytes) -> None:
    with pytest.raises(ConfigError, match="an invalid request for forks"):
        fork_request(asked)
    assert fork_request(b"[2, 7]") == (2, 7)


NO_ROOM_FOR_A_FORK = """
import os, subprocess, sys
from pathlib import Path
from tests import tiny
from tests.command import Command
from vmm import HostError
from vmm.control.client import ask
folder, small = Path(sys.argv[1]), Path(sys.argv[1]) / "small"
(small / "disk.img").write_bytes(b"d" * (1 << 20))
kernel = tiny.make(folder, tiny.say("hello\\n") + tiny.ECHO)
disk, control = ["--disk", str(small / "disk.img")], ["--control", str(folder / "c")]
command = Command(folder, "--kernel", kernel, "--memory", "32M", *disk, *control)
command.expect("hello")
for n in (1, 2):
    try:
        ask(str(folder / "c"), "fork", n=n)
    except HostError as error:
        print(n, error)
print(sorted(os.listdir(small)), ask(str(folder / "c"), "status")["state"])
command.type(b"x\\4")
command.expect("x")
print(command.wait(), command.leftovers(), (folder / "c").exists())
"""


@pytest.mark.parametrize("room", [1, 2])
def test_a_fork_that_has_no_room_leaves_nothing_and_the_machine_goes_on(tmp_path: Path, room: int) -> None:
    """For a copy of the disk, or for the second one."""
    (tmp_path / "small").mkdir()
    size = (room << 20) + (256 << 10)
    mount = ["sh", "-c", f'mount -t tmpfs -o size={size} none {tmp_path}/small && exec "$@"', "sh"]
    command = ["unshare", "-m", *mount, sys.executable, "-c", NO_ROOM_FOR_A_FORK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)
    *refused, state, end = done.stdout.splitlines() or [""] * 2
    assert [line[:1] for line in refused] == ["1", "2"][room - 1 :], done.stdout + done.stderr
    assert all("No space left" in line for line in refused)
    assert (state, end) == ("['disk.img'] running", "0 [] False")


class Impostor:
    """What answers for a machine in a jail when somebody has taken it over: *answers*, whatever is asked.

    :param do: to the first file that comes with a request
    """

    def __init__(self, folder: Path, *answers: bytes, do: Callable[[int], object] = lambda fd: None) -> None:
        self._do = do
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(["sleep", "1000"])
        self._pidfd = os.pidfd_open(self.process.pid)
        self._answers = answers
        config = tiny.config(str(folder / "tiny.elf"), disks=(DiskConfig(str(folder / "disk.img")),))
        self.machine = Jailed(theirs, self._pidfd, config)
        self._thread = Thread(target=self._answer)
        self._thread.start()

    def _answer(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self.ours, 4096, 16)
            if not data:
                return
            with socket.socket(fileno=fds.pop(0)) as answer:
                self._do(fds[0] if fds else -1)
                for each in self._answers:
                    answer.send(each)
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        self.machine._sock.close()
        self._thread.join()
        self.ours.close()
        self.process.kill()
        self.process.wait()
        os.close(self._pidfd)


@pytest.mark.parametrize(
    "answers",
    [
        (),
        (b"x",),
        (b"[" * 60000,),
        (b"[1]",),
        (b'{"ok": 1}',),
        (b"{}",),
        (b'{"progress": "x", "of": 1}',),
        (b'{"progress": -1, "of": 1}', b'{"ok": {}}'),
        (b'{"error": 5}',),
        (b'{"ok": {}}',),
        (b'{"ok": {"devices": [], "disks": [], "cpuid": "", "memory_bytes": 0}}',),
        (b'{"ok": {"devices": [["x"]], "disks": [[1, true]], "cpuid": "%s", "memory_bytes": 0}}' % (b"0" * 64),),
        (b'{"ok": {"devices": 7, "disks": [["/etc/shadow", 1]], "cpuid": "%s", "memory_bytes": 0}}' % (b"0" * 64),),
    ],
    ids=range(13),
)
def test_a_snapshot_of_an_impostor_is_none(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    impostor = Impostor(tmp_path, *answers)
    try:
        with pytest.raises(HostError, match=r"sends invalid answers|ended before"):
            impostor.machine.snapshot(str(tmp_path / "warm"), progress=lambda done, size: None)
    finally:
        impostor.close()
    assert sorted(os.listdir(tmp_path)) == ["disk.img"]


@pytest.mark.parametrize(
    "answers", [(), (b"x",), (b'{"ok": {}}',), (b'{"ok": {"number": -1}}',), (b'{"ok": {"number": true}}',)]
)
def test_a_disk_for_an_impostor_is_not_locked_afterwards(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    disk = DiskConfig(str(tmp_path / "disk.img"))
    Path(disk.path).write_bytes(bytes(4096))
    before = descriptors()
    impostor = Impostor(tmp_path, *answers)
    impostor.machine.config = replace(impostor.machine.config, transport="pci")
    try:
        for _ in range(2):
            with pytest.raises(HostError, match=r"sends invalid answers|ended before"):
                impostor.machine.plug(disk)
        Image(disk.path).close()
    finally:
        impostor.close()
    assert descriptors() <= before


@pytest.mark.parametrize(
    "answers",
    [(), (b"x",), (b'{"ok": {}}',), (b'{"ok": {"devices": [], "disks": [], "cpuid": "", "memory_bytes": 0}}',)],
)
def test_a_fork_of_an_impostor_is_none(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    before = descriptors()
    impostor = Impostor(tmp_path, *answers)
    try:
        with pytest.raises(HostError, match=r"sends invalid answers|ended before"):
            impostor.machine.fork_point(1)
    finally:
        impostor.close()
    assert descriptors() <= before and os.listdir(tmp_path) == ["disk.img"]


def _maps(fd: int) -> None:
    """Keep a mapping of it that can be written."""
    KEPT.append(mmap.mmap(fd, 4096))


KEPT: list[mmap.mmap] = []


@pytest.mark.parametrize(
    "do",
    [_maps, lambda fd: os.ftruncate(fd, 4096), lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)],
    ids=["maps", "truncates", "seals"],
)
def test_memory_that_an_impostor_can_change_is_nobodys(tmp_path: Path, do: Callable[[int], object]) -> None:
    """A child would die when memory that it has mapped is gone, or see the other's writes."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    said = {"devices": [], "disks": [[4096, disk.stat().st_mtime_ns]], "cpuid": "0" * 64, "memory_bytes": 0}
    impostor = Impostor(tmp_path, json.dumps({"ok": said}).encode(), do=do)
    try:
        with pytest.raises(HostError, match=r"sends invalid answers|cannot copy the machine"):
            impostor.machine.fork_point(1)
    finally:
        impostor.close()
        while KEPT:
            KEPT.pop().close()


def test_an_impostor_does_not_say_what_a_snapshot_is_of(tmp_path: Path) -> None:
    """The paths in it are opened, as root, when it is restored: they are the user's."""
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    answer = {
        "devices": [["virtio-blk", 1]], "disks": [[4096, 1]], "cpuid": "0" * 64, "memory_bytes": 0,
        "config": {"shares": [{"path": "/"}]}, "kernel": "/etc/shadow",
    }  # fmt: skip
    impostor = Impostor(tmp_path, json.dumps({"ok": answer}).encode())
    try:
        impostor.machine.snapshot(str(tmp_path / "warm"))
    finally:
        impostor.close()
    manifest = read_manifest(str(tmp_path / "warm"))
    assert manifest.config["shares"] == [] and manifest.kernel.path == str(tmp_path / "tiny.elf")
    assert [disk.image.path for disk in manifest.disks] == [str(tmp_path / "disk.img")]
    with pytest.raises(ConfigError):  # it has written nothing
        Machine.restore(str(tmp_path / "warm"))


def test_what_an_impostor_says_is_no_order_to_a_terminal(tmp_path: Path) -> None:
    impostor = Impostor(
        tmp_path, json.dumps({"error": "\x1b]0;x\x07" + "y" * 5000, "code": "a", "hint": "\r"}).encode()
    )
    try:
        with pytest.raises(HostError) as caught:
            impostor.machine.pause()
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
        assert caught.value.hint == "?"
    finally:
        impostor.close()


def test_who_does_not_stop_is_killed(tmp_path: Path) -> None:
    impostor = Impostor(tmp_path)
    try:
        impostor.machine.stop()
        assert impostor.process.wait(60) == -signal.SIGKILL
    finally:
        impostor.close()


@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed: apt-get install gdb")
@pytest.mark.parametrize("wait", ["", ",wait"])
def test_a_debugger_attaches_to_a_machine_in_a_jail(tmp_path: Path, wait: str) -> None:
    # 0: mov eax, 0x1234; 5: mov ebx, eax; 7: nop; 8: jmp 0
    kernel = tiny.make(tmp_path, b"\xb8\x34\x12\0\0\x89\xc3\x90\xeb\xf6")
    where = f"unix:{tmp_path}/g{wait}"
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", "--jail", "on", "--gdb", where, "--json")
    try:
        deadline = time.monotonic() + 60
        while "gdb: target" not in command.errors:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        orders = (
            f"target remote {tmp_path}/g", f"hbreak *{tiny.BASE + 7:#x}", "continue", "print/x $ebx",
            "set var $ebx = 5", "set var $xmm1 = 7", "print $xmm1", "set var $fs_base = 0x7000", "print/x $fs_base",
            f"break *{tiny.BASE + 5:#x}",
            f"set *(int*){tiny.BASE + 0x1800:#x} = 77", f"print *(int*){tiny.BASE + 0x1800:#x}",
            "stepi", "print $ebx", "continue", "detach",
        )  # fmt: skip
        arguments = [word for order in orders for word in ("-ex", order)]
        done = subprocess.run(["gdb", "-nx", "-batch", *arguments], capture_output=True, text=True, timeout=60)
        for shown in (
            "$1 = 0x1234", "$2 = 7", "$3 = 0x7000", "$4 = 77", "$5 = 5", "Breakpoint 2,", "detached]",
        ):  # fmt: skip
            assert shown in done.stdout, done.stdout + done.stderr
        for status in threads(command.process.pid):
            assert int(status["Uid"].split()[0]) >= users.FIRST and status["CapEff"] == "0" * 16, status["Name"]
        command.process.terminate()
        assert command.wait() == 143
    finally:
        command.close()
    assert command.leftovers() == [] and not (tmp_path / "g").exists()


def test_an_ordinary_user_gets_what_the_host_allows(tmp_path: Path) -> None:
    """In a user namespace there are capabilities to give up, too."""
    code = "from vmm.processes.jail import enter; print(*enter.enter(enter.JailLimits()).names())"
    command = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"capabilities", "no-new-privs", "limits"} <= set(done.stdout.split())
    assert {"files", "landlock"} & set(done.stdout.split())
    assert "user" not in done.stdout.split()


def test_not_with_other_threads() -> None:
    """They would keep everything."""
    code = """
import threading
from vmm.processes.jail import enter
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    enter.enter(enter.JailLimits())
except Exception as error:
    print(error.code, open("/proc/self/status").read().split("CapEff:")[1].split()[0])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    code, capabilities = done.stdout.split()
    assert code == "jail" and int(capabilities, 16)


def test_threads_that_end_are_waited_for() -> None:
    """The kernel may still have a thread that was joined."""
    code = """
import threading, time
from vmm.processes.jail import enter
threading.Thread(target=time.sleep, args=[0.2], daemon=True).start()
print(*enter.enter(enter.JailLimits()).names())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "limits" in done.stdout.split()


RESTRICTED = """
import ctypes, os, threading
from vmm import restrict_process, seal_process
libc = ctypes.CDLL(None, use_errno=True)
def answer(*numbers):
    result = libc.syscall(*map(ctypes.c_long, numbers))
    return ctypes.get_errno() if result < 0 else 0
walls = restrict_process(["dac_override", "sys_admin"])
print(*walls.names())
print(*[open("/proc/self/status").read().split(name)[1].split()[0] for name in ("CapEff:", "CapBnd:", "NoNewPrivs:")])
print(os.stat("/proc/self/mem").st_mode, *[answer(number, 0, 0) for number in (101, 310, 175, 246, 304, 0x40000065)])
os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
seal_process()
kvm = os.open("/dev/kvm", os.O_RDWR)
print(answer(59, 0, 0), answer(16, kvm, 0xAE01, 0), answer(57), answer(56, 17, 0, 0, 0, 0), answer(435, 0, 0))
thread = threading.Thread(target=lambda: print(answer(59, 0, 0)))
thread.start()
thread.join()
"""


def test_a_process_that_goes_on_serving_its_host() -> None:
    """It keeps what it asked for, and never makes what nobody needs: no modules, no looking into others; at last no
    programs, processes and machines."""
    done = subprocess.run([sys.executable, "-c", RESTRICTED], cwd=ROOT, capture_output=True, text=True, check=True)
    walls, status, refused, sealed, thread = done.stdout.splitlines()
    assert {"capabilities", "no-new-privs", "ipc-ns", "uts-ns", "limits", "seccomp", "undumpable"} <= set(walls.split())
    assert status.split() == [f"{1 << 1 | 1 << 21:016x}"] * 2 + ["1"]
    assert refused.split()[1:] == [str(errno.EPERM)] * 5 + [str(errno.ENOSYS)]
    assert sealed.split() == [str(errno.EPERM)] * 4 + [str(errno.ENOSYS)]
    assert thread == str(errno.EPERM)


def test_no_such_capability() -> None:
    with pytest.raises(ConfigError, match="'root' is no capability"):
        restrict_process(["root"])
    with pytest.raises(ConfigError, match="'root' is no capability"):
        seal_process(["root"])


LISTED = """
import ctypes, errno, os, socket, sys, threading
from tests import tiny
from vmm import Machine, restrict_process, seal_process
libc = ctypes.CDLL(None, use_errno=True)
def answer(*numbers):
    result = libc.syscall(*map(ctypes.c_long, numbers))
    return ctypes.get_errno() if result < 0 else 0
def look():
    print(*[n for n in range(480) if n not in listed and answer(n, 0, 0, 0, 0, 0) != errno.ENOSYS])
    print(*[answer(*numbers) for numbers in arguments])
    fields = [line.split() for line in open("/proc/thread-self/status")]
    print(*[words[1] for words in fields if words[0] in ("CapEff:", "CapPrm:")])
restrict_process(["sys_admin", "dac_override", "setuid"])
programs = sys.argv[2] == "True"
listed = {*map(int, sys.argv[3:]), 335, 336}  # and two that the kernel itself puts into a program (uprobes)
sealed = threading.Event()
earlier = threading.Thread(target=lambda: sealed.wait() and look())
earlier.start()
console = tiny.Console()
null = os.open("/dev/null", os.O_RDWR)
# socket: packets, the host's virtual machines, keys; ioctl: TIOCSTI, FITRIM, KVM_CREATE_VM; fcntl: F_NOTIFY, F_SETOWN;
# prctl: PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER; seccomp: a listener; clone: a process
arguments = [(41, 17, 3, 0), (41, 40, 1, 0), (41, 38, 5, 0), (16, null, 0x5412, 0), (16, null, 0xC0185879, 0),
    (16, null, 0xAE01, 0), (72, null, 1026, 1), (72, null, 8, 1), (157, 4, 1), (157, 36, 1), (317, 3, 0, 0)]
if not programs:
    arguments.append((56, 17, 0, 0, 0, 0))
with Machine(tiny.config(sys.argv[1], console=console.config)) as machine:
    machine.start(lambda: seal_process(["sys_admin"], programs=programs), confined=True)
    machine.console_input(b"hello")
    assert console.read(5) == b"hello"
    look()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    sealed.set()
    earlier.join()
    if programs:
        child = "import fcntl, os; fcntl.ioctl(os.open('/dev/kvm', os.O_RDWR), 0xAE01, 0)"
        pid = os.posix_spawn(sys.executable, [sys.executable, "-IS", "-c", child], {})
        assert os.waitpid(pid, 0)[1], "a program of it has made a machine"
        assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0
    assert os.listdir("/proc/self/fd") and socket.socketpair() and socket.socket(socket.AF_INET6)
"""


@pytest.mark.parametrize("programs", [False, True])
def test_a_sealed_process_has_the_calls_of_its_list_alone(tmp_path: Path, programs: bool) -> None:
    """Every other one is tried, by threads that are older and newer, too; its machine runs."""
    row, index, listed = ffi.new("struct seccomp_row *"), 0, []
    nobodys = lib.SECCOMP_BROKER | lib.SECCOMP_OUTSIDE | lib.SECCOMP_SERVER | lib.SECCOMP_CONTROL | lib.SECCOMP_GDB
    nobodys |= lib.SECCOMP_SHARES | lib.SECCOMP_FORKS | (0 if programs else lib.SECCOMP_SPAWN)
    while lib.seccomp_row(index, row) == 0:
        if row.whose & ~(nobodys | lib.SECCOMP_TTY):
            listed.append(str(row.nr))
        index += 1
    assert len(set(listed)) < (150 if programs else 130)
    command = [sys.executable, "-c", LISTED, tiny.make(tmp_path, tiny.ECHO), str(programs), *listed]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    main, thread, earlier = lines[:3], lines[3:6], lines[6:]
    assert main == thread and main[:2] == earlier[:2]
    assert main[0] == "", "what is not listed and was made"
    assert {int(number) for number in main[1].split()} == {errno.ENOSYS}
    assert main[2].split() == [f"{1 << CAPABILITIES.index('sys_admin'):016x}"] * 2


# What a machine that runs does not come to
BEFORE = {
    *("vmm.boot", "vmm.boot.bzimage", "vmm.boot.loader", "vmm.cli.completion", "vmm.cli.doctor"),
    *("vmm.cli.debug", "vmm.debug", "vmm.cli.open_console", "vmm.cli.options", "vmm.cli.main", "vmm.faststart.record"),
    *("vmm.processes.jail.enter", "vmm.config"),
}
NEVER = {
    "vmm.virtio.pci_layout": "devices are placed before",
    "vmm.board.attach_pci": "devices are placed before",
    "importlib.metadata": "only --version and snapshots tell it",
    "vmm.version": "the same",
    "asyncio": "nobody awaits a machine of pyvmm boot",
    "resource": "descriptors are allowed before",
    "vmm.machine.stats": "only with --stats, and then imported before",
    "termios": "only with a terminal, and then imported before",
    "vmm.debug": "opened before",
    **dict.fromkeys(
        ("vmm.saving.restore", "vmm.saving.fork", "vmm.processes.isolated"), "nobody makes another machine in a jail"
    ),
    **dict.fromkeys(
        (
            "vmm.control",
            "vmm.processes.parent",
            "vmm.processes.runner",
            "vmm.control.server",
            "vmm.processes.jailed",
            "vmm.saving.directory",
            "vmm.processes.jail.restrict",
            "ctypes",
            "hashlib",
            "zlib",
            "tempfile",
            "hashlib",
            "shutil",
        ),
        "what a control socket needs outside",
    ),
    "vmm.options.cpu": "a template is read, and fits or not, before",
    "vmm.saving.memory_base": "a machine in a jail is not forked",
    "_queue": "nobody iterates over the events of pyvmm boot's machine",
    "vmm.virtio.fs.process": "opened before",
    "vmm.virtio.fs.device": "opened before",
    "vmm.virtio.vsock.device": "opened before",
    "vmm.virtio.vsock.vhost": "opened before",
    "vmm.virtio.net.vhost": "opened before",
    "vmm.virtio.console.device": "opened before",
    "vmm.processes.jail.users": "the jail itself",
    "vmm.processes.broker": "the jail itself",
    "vmm.processes.control_process": "the jail itself",
    "vmm.processes.forks": "the jail itself",
    "vmm.processes.helpers": "the jail itself",
    "vmm.processes.jail_server": "the jail itself",
    "vmm.processes.share_starter": "the jail itself",
}
NOT_ASKED = {
    **dict.fromkeys(
        (
            "vmm.saving.snapshot",
            "vmm.saving.new_directory",
            "vmm.saving.machine_state",
            "vmm.kvm.saved",
            "vmm.board.vcpu_gate",
        ),
        "without a control socket nobody saves or pauses it",
    ),
    "json": "only with --json, and then imported before",
}
PROBE = """
import sys
import vmm.processes.jail.enter as jail
from vmm.cli.main import main
enter = jail.enter
def look(*arguments, **more):
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    print(repr({name: file for name, file in files.items()}), file=open(sys.argv[1], "w"))
    return enter(*arguments, **more)
jail.enter = look
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("control", [False, True])
def test_what_it_may_import_is_there_before(tmp_path: Path, control: bool) -> None:
    """An import in a function that a guest can have called would fail in the jail, and end the machine."""
    kernel = tiny.make(tmp_path, tiny.POWEROFF)
    out = tmp_path / "modules"
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    command = [sys.executable, "-IS", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{PROBE}", str(out)]
    options = ["boot", "--kernel", str(kernel), "--disk", str(disk), "--net", "none", "--transport", "pci", "--pmem"]
    options = [*options[:-3], "--balloon", "on", *(("--control", str(tmp_path / "c")) if control else ())]
    subprocess.run([*command, *options], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
    never = NEVER if control else NEVER | NOT_ASKED
    modules: dict[str, str | None] = ast.literal_eval(out.read_text())
    missing = {}
    for name, file in modules.items():
        if not name.startswith("vmm") or not file or not file.endswith(".py") or name in BEFORE:
            continue
        for function in ast.walk(ast.parse(Path(file).read_text())):
            if isinstance(function, ast.FunctionDef) and function.name != "open":  # of a device's record: before
                for wanted in imports_of(function):
                    if wanted not in modules and wanted not in sys.builtin_module_names and wanted not in never:
                        missing[wanted] = f"{name}.{function.name}"
    assert not missing, "import it in vmm/processes/outside.py, or say in this test why a running machine never does"


def imports_of(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                path = ROOT / f"{node.module}.{alias.name}".replace(".", "/")
                if path.with_suffix(".py").exists():
                    yield f"{node.module}.{alias.name}"


def test_an_idle_machine_still_gives_back_what_only_the_start_needed(machine: Command) -> None:
    """It reads its own maps, which it has opened before; tests/unit/cli/test_boot_command.py has the figures."""
    deadline = time.monotonic() + 60

    def open_maps() -> list[str]:
        return [link for link in links_of(machine.process.pid).values() if link.endswith(("/maps", "/pagemap"))]

    assert open_maps()
    while open_maps():
        assert time.monotonic() < deadline
        time.sleep(0.1)
