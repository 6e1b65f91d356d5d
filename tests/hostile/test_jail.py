"""What a machine's process has left when its guest runs: as /proc reports it from outside."""

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
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import tiny
from tests.command import Command, links_of, not_for_a_jail
from tests.jail_processes import children, soon_none, status_of, threads
from tests.netns import ip, own_network
from tools.where import PYVMM, ROOT
from vmm import BalloonConfig, DiskConfig, Machine, ShareConfig, VsockConfig
from vmm.control.client import ask
from vmm.errors import HostError
from vmm.faststart.record import replace
from vmm.native import ffi, lib
from vmm.processes import trim_memory
from vmm.processes.jail import users
from vmm.saving import memory_file

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
    deadline = time.monotonic() + 60
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
    "vmm.cli.plugins": "only boot --api-sock, which makes no machine here",
    "pyvmm_guest": "the kernel is found before",
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
    "vmm.open_files": "before the machine is made",
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
    links = links_of(machine.process.pid).values()
    assert {Path(link).name for link in links} >= {"maps", "pagemap"}

    def programs() -> int:
        """KiB of their text that are mapped."""
        size, is_text = 0, False
        for line in Path(f"/proc/{machine.process.pid}/smaps").read_text().splitlines():
            words = line.split()
            if not words[0].endswith(":"):
                is_text = words[1] == "r-xp" and words[-1].startswith("/")
            elif words[0] == "Rss:" and is_text:
                size += int(words[1])
        return size

    while programs() > 1024:
        assert time.monotonic() < deadline
        time.sleep(0.1)
