"""A thread of a jailed machine that somebody has taken over: vCPU, control loop or the first one, which all run Python.

The calls come from code of the tests' own: a start of the command with a function of a thread's replaced.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import record_calls, tiny
from tests.command import Command
from tools import calls
from tools.where import ROOT
from vmm import BootConfig, DiskConfig, Machine, MachineConfig, ShareConfig
from vmm.control.client import ask
from vmm.errors import ConfigError, HostError
from vmm.faststart.record import replace
from vmm.native import ffi, lib
from vmm.processes.outside import calls_of

pytestmark = [
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="looks at a machine that has root's jail"),
]

CALLS: dict[str, tuple[int, ...]] = {
    "open": (2, 0, 0),
    "openat": (257, -100, 0, 0),
    "socket": (41, 1, 1, 0),
    "execve": (59, 0, 0, 0),
    "ptrace": (101, 0, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "kill": (62, 1, 0),
    "tgkill": (234, 1, 1, 0),
    "ioctl": (16, -1, 0xAE01, 0),  # KVM_CREATE_VM
    "clone": (56, 17, 0, 0, 0, 0),
    "mmap": (9, 0, 4096, 7, 0x22, -1, 0),
    "unshare": (272, 0x10000000),
    "fcntl": (72, 0, 1030, 0),
}
THREADS = {
    "vcpu0": "vmm.board.vcpu_threads:VcpuThreads._io",
    "loop": "vmm.machine.machine:Machine._serve",
    "python": "vmm.cli.signals:Signals.wait",
}
WHERE = {
    **THREADS,
    "control": "vmm.processes.control_process:ControlProcess._do",
    "server": "vmm.control.server:ControlServer._answer",
    "shares": "vmm.processes.share_starter:_Starting._start",
    "forks": "vmm.processes.forks:_Forking._made",
    "gdb": "vmm.debug.server:GdbServer._accept",
}
HOOK = """
import ctypes, importlib, sys
from vmm.cli.main import main
libc = ctypes.CDLL(None)
module, _, name = sys.argv[1].partition(":")
kind, _, function = name.partition(".")
numbers = [ctypes.c_long(int(word)) for word in sys.argv[2].split(",")]
taken_over = lambda *_: print("survived", libc.syscall(*numbers))
setattr(getattr(importlib.import_module(module), kind), function, taken_over)
sys.exit(main(sys.argv[3:]))
"""


def end_by(folder: Path, thread: str, call: str, calls: dict[str, tuple[int, ...]], *options: str) -> None:
    """Boot with *options*; a thread that makes a call ends all of it."""
    # A vCPU comes to Python by the register of the power; the others must not find the machine ended
    kernel = tiny.make(folder, tiny.POWEROFF + tiny.SPIN if thread == "vcpu0" else tiny.SPIN)
    numbers = ",".join(str(number) for number in calls[call])
    boot = ["boot", "--kernel", str(kernel), "--memory", "32M", "--timeout", "20", *options]
    command = [sys.executable, "-c", HOOK, WHERE[thread], numbers, *boot]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "survived" not in done.stdout
    assert f"thread {thread[:6]}" in done.stderr and f"system call {call} ({calls[call][0]})" in done.stderr
    assert done.returncode == 1


UNSEEN = {
    "io_uring_setup": (425, 1, 0),  # what it does passes no filter
    "fcntl": (72, 0, 4, 2048),  # F_SETFL, O_NONBLOCK: of a file that the caller has open, too
}


@pytest.mark.parametrize("call", UNSEEN)
def test_with_a_disk_too(tmp_path: Path, call: str) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    end_by(tmp_path, "python", call, UNSEEN, "--disk", str(tmp_path / "disk"))


def test_nobody_makes_an_io_uring() -> None:
    """Those of disks are made before any list holds."""
    row, number, found = ffi.new("struct seccomp_row *"), 0, 0
    while lib.seccomp_row(number, row) == 0:
        if ffi.string(row.name) == b"io_uring_setup":
            assert row.whose == 0
            found += 1
        number += 1
    assert found == 1


LIBRARY = (
    HOOK.partition("sys.exit(")[0].replace("from vmm.cli.main import main", "")
    + """
from vmm import BootConfig, Machine, MachineConfig, MemoryConfig
with Machine(MachineConfig(BootConfig(sys.argv[3]), memory=MemoryConfig(32 << 20))) as machine:
    machine.start(confined=True)
    machine.wait(20)
"""
)
ESCAPES = ("open", "socket", "execve", "ptrace", "mount", "kill", "ioctl")


@pytest.mark.parametrize("thread", ["vcpu0", "loop"])
@pytest.mark.parametrize("call", ESCAPES)
def test_without_a_jail_too(tmp_path: Path, thread: str, call: str) -> None:
    """A process that has everything, as that of a container's machine."""
    kernel = tiny.make(tmp_path, tiny.POWEROFF + tiny.SPIN if thread == "vcpu0" else tiny.SPIN)
    numbers = ",".join(str(number) for number in CALLS[call])
    command = [sys.executable, "-c", LIBRARY, THREADS[thread], numbers, str(kernel)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "survived" not in done.stdout
    assert f"thread {thread} tried the system call {call} ({CALLS[call][0]})" in done.stderr
    assert done.returncode == 1


SHOWN = """
import sys, time
from tests.command import of_threads
from vmm import BootConfig, Machine, MachineConfig, MemoryConfig
with Machine(MachineConfig(BootConfig(sys.argv[1]), memory=MemoryConfig(32 << 20), cpus=2)) as machine:
    machine.start(confined=True)
    def threads():
        return [status for status in of_threads("status").values() if "Name:\tkvm-" not in status]  # the kernel's own
    listed = lambda status: "Seccomp:\t2" in status and "Name:\tpython" not in status
    # What was only needed to start may not be gone yet, and a thread gets its name when it runs
    while len(now := threads()) != 5 or sum(map(listed, now)) < 4:
        time.sleep(0.01)
    print(repr(now))
end = time.monotonic() + 60
while len(threads()) > 1 and time.monotonic() < end:
    time.sleep(0.01)  # a thread that was joined has a few instructions left
print(len(threads()))
"""


def test_who_has_a_list_has_no_capability(tmp_path: Path) -> None:
    """The rest of the process is as it was; when the machine is closed nothing of it is left."""
    command = [sys.executable, "-c", SHOWN, str(tiny.make(tmp_path, tiny.SPIN))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    shown, left = done.stdout.splitlines()
    found = {}
    for status in ast.literal_eval(shown):
        fields = {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}
        found[fields["Name"]] = (fields["Seccomp"], int(fields["CapEff"], 16) | int(fields["CapPrm"], 16))
    everything = found.pop("python" if "python" in found else "python3")
    assert everything[0] == "0" and everything[1] & 1 << 21, "CAP_SYS_ADMIN"
    # A worker of a socket device reaches sockets that the caller could reach: CAP_DAC_OVERRIDE
    assert found == {"vcpu0": ("2", 0), "vcpu1": ("2", 0), "loop": ("2", 0), "starter": ("2", 2)}
    assert left == "1"


WORKERS = """
import sys, pathlib, time
from threading import Thread
from tests.command import of_threads
from tests.hostile import test_forbidden_calls as devices
from vmm.native import lib
assert lib.seccomp_starter_begin() == 0
def vcpu(guest):
    assert lib.seccomp_enter_thread(lib.SECCOMP_VCPU) == 0
    guest.start()
image = pathlib.Path(sys.argv[1], "image")
image.write_bytes(bytes(2 << 20))
makers = {
    "blk-0": lambda: devices.BlkGuest(image),
    "console": lambda: devices.Guest(devices.VirtioConsole(out_fd=1)),
    "pmem": lambda: devices.Guest(devices.Pmem(devices.PmemConfig(str(image)))),
}
with makers[sys.argv[2]]() as guest:
    thread = Thread(target=vcpu, args=[guest])
    thread.start()
    thread.join()
    while not lib.worker_walled(guest.device._workers._running[0][0]):
        time.sleep(0.01)
    for status in of_threads("status").values():
        if status.split()[1] == sys.argv[2]:
            fields = dict(line.split(None, 1) for line in status.splitlines() if len(line.split(None, 1)) == 2)
            print(fields["Seccomp:"], fields["CapEff:"])
"""


def test_threads_that_are_not_confined_start_what_they_like() -> None:
    """A share that a thread serves, of another machine in the same process: it opens files."""
    code = """
from tests.fs_driver import FsGuest
from vmm.native import lib
assert lib.seccomp_starter_begin() == 0
with FsGuest("/usr") as guest:
    print(guest.lookup("bin").node > 1)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("worker", ["blk-0", "console", "pmem"])
def test_a_driver_on_a_confined_vcpu_starts_workers(tmp_path: Path, worker: str) -> None:
    """They need what a vCPU has not."""
    command = [sys.executable, "-c", WORKERS, str(tmp_path), worker]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "0" * 16]


@pytest.mark.parametrize("thread", THREADS)
@pytest.mark.parametrize("call", CALLS)
def test_the_process_ends(tmp_path: Path, thread: str, call: str) -> None:
    end_by(tmp_path, thread, call, CALLS)


SOCKETS = {
    "openat": (257, -100, 0, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC),
    "connect": (42, -1, 0, 0),
    **{call: CALLS[call] for call in ESCAPES},
}


@pytest.mark.parametrize("thread", ["vcpu0", "python"])
@pytest.mark.parametrize("call", SOCKETS)
def test_a_machine_whose_guest_connects_to_the_host_ends_too(tmp_path: Path, thread: str, call: str) -> None:
    end_by(tmp_path, thread, call, SOCKETS, "--vsock", f"uds={tmp_path}/v")
    assert os.listdir(tmp_path) == ["tiny.elf"], "the broker has removed the sockets"


def ask_until_it_serves(path: str) -> None:
    while True:
        try:
            ask(path, "status")
        except ConfigError:  # nobody is there yet
            time.sleep(0.01)
        else:
            return


def ask_until_it_ends(path: Path, process: subprocess.Popen[str]) -> None:
    """At a control socket, whose server or machine one of the answers will end."""
    while process.poll() is None:
        try:
            ask(str(path), "status")
        except ConfigError:  # it does not listen yet
            time.sleep(0.01)
        except HostError:
            break


CONTROLLED = {
    "getsockname": (51, 0, 0, 0),  # not even what sockets it has
    "connect": (42, -1, 0, 0),
    "bind": (49, -1, 0, 0),
    **{call: CALLS[call] for call in (*ESCAPES, "clone")},
}


@pytest.mark.parametrize("thread", ["control", "vcpu0"])
@pytest.mark.parametrize("call", CONTROLLED)
def test_a_machine_with_a_control_socket_ends_too(tmp_path: Path, thread: str, call: str) -> None:
    kernel = tiny.make(tmp_path, tiny.POWEROFF + tiny.SPIN if thread == "vcpu0" else tiny.SPIN)
    numbers = ",".join(str(number) for number in CONTROLLED[call])
    path = tmp_path / "c"
    boot = ["boot", "--kernel", kernel, "--memory", "32M", "--timeout", "60", "--control", str(path)]
    command = [sys.executable, "-c", HOOK, WHERE[thread], numbers, *boot]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        if thread == "control":
            ask_until_it_ends(path, process)
        out, errors = process.communicate(timeout=60)
    assert "survived" not in out
    assert f"thread {thread}" in errors and f"({CONTROLLED[call][0]})" in errors
    assert process.returncode == 1
    assert os.listdir(tmp_path) == ["tiny.elf"], "the process outside has removed the socket"


SERVING = {"bind": (49, -1, 0, 0), "connect": (42, -1, 0, 0), **CALLS}
for _call in ("open", "openat", "fcntl"):
    del SERVING[_call]


@pytest.mark.parametrize("call", SERVING)
def test_who_serves_the_control_socket_has_a_list_too(tmp_path: Path, call: str) -> None:
    """Files are its work; the rest is not."""
    path = tmp_path / "c"
    boot = ["boot", "--kernel", tiny.make(tmp_path, tiny.SPIN), "--memory", "32M", "--control", str(path)]
    numbers = ",".join(str(number) for number in SERVING[call])
    command = [sys.executable, "-c", HOOK, WHERE["server"], numbers, *boot]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        ask_until_it_ends(path, process)
        _, errors = process.communicate(timeout=60)
    assert f"thread control tried the system call {call} ({SERVING[call][0]})" in errors
    assert "the process of its control socket has ended" in errors and process.returncode == 1


def check_a_process_outside(
    folder: Path,
    which: str,
    name: str,
    call: tuple[str, tuple[int, ...]],
    options: list[str],
    operation: str,
    **words: str,
) -> None:
    """One that a machine in a jail has outside, and that makes a call which its list does not have when it is asked for
    *operation*: it ends, and the machine goes on without, and says so each time that it is asked again.
    """
    path, kernel = str(folder / "c"), tiny.make(folder, tiny.SPIN)
    boot = ["boot", "--kernel", kernel, "--memory", "32M", "--timeout", "60", "--control", path, *options]
    command = [sys.executable, "-c", HOOK, WHERE[which], ",".join(map(str, call[1])), *boot]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        ask_until_it_serves(path)
        for _ in range(2):
            with pytest.raises(HostError, match=f"that {name} has ended"):
                ask(path, operation, **words)
        assert ask(path, "status")["state"] == "running"
        ask(path, "stop")
        out, errors = process.communicate(timeout=60)
    assert "survived" not in out and process.returncode == 20
    assert f"thread pyvmm-{which} tried the system call {call[0]} ({call[1][0]})" in errors


STARTING = {"bind": (49, -1, 0, 0), "connect": (42, -1, 0, 0), "setns": (308, -1, 0), "bpf": (321, 0, 0, 0), **CALLS}
for _call in ("openat", "execve", "mount", "fcntl"):
    del STARTING[_call]


@pytest.mark.parametrize("call", STARTING)
def test_who_starts_servers_of_shares_has_a_list_too(tmp_path: Path, call: str) -> None:
    """The machine gets no share any more."""
    options = ["--transport", "pci", "--shares-from", str(tmp_path.parent)]
    made = call, STARTING[call]
    check_a_process_outside(
        tmp_path, "shares", "starts servers of shares", made, options, "add-share", share=str(tmp_path)
    )


FORKING = {"bind": (49, -1, 0, 0), "connect": (42, -1, 0, 0), "setns": (308, -1, 0), "fork": (57,), **CALLS}
for _call in ("openat", "fcntl"):
    del FORKING[_call]


@pytest.mark.parametrize("call", FORKING)
def test_who_makes_forks_has_a_list_too(tmp_path: Path, call: str) -> None:
    """The machine can be forked no more."""
    check_a_process_outside(tmp_path, "forks", "makes forks", (call, FORKING[call]), [], "fork")


DEBUGGED = {"bind": (49, -1, 0, 0), "connect": (42, -1, 0, 0), **{call: CALLS[call] for call in (*ESCAPES, "clone")}}


@pytest.mark.parametrize("thread", ["gdb", "vcpu0"])
@pytest.mark.parametrize("call", DEBUGGED)
def test_a_machine_with_a_debugger_ends_too(tmp_path: Path, thread: str, call: str) -> None:
    end_by(tmp_path, thread, call, DEBUGGED, "--gdb", f"unix:{tmp_path}/g")
    assert os.listdir(tmp_path) == ["tiny.elf"], "the broker has removed the socket"


@pytest.mark.parametrize("thread", THREADS)
@pytest.mark.parametrize("call", ESCAPES)
def test_a_clone_ends_too(tmp_path: Path, snapshot: str, thread: str, call: str) -> None:
    numbers = ",".join(str(number) for number in CALLS[call])
    command = [sys.executable, "-c", HOOK, THREADS[thread], numbers, "restore", snapshot, "--timeout", "20"]
    # The end of transmission has the guest switch its power off, which comes to Python on its vCPU
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input="\4" if thread == "vcpu0" else "")
    assert "survived" not in done.stdout
    assert f"thread {thread[:6]}" in done.stderr and f"system call {call} ({CALLS[call][0]})" in done.stderr
    assert done.returncode == 1


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a guest that sends back what it is typed."""
    return take_snapshot(tmp_path_factory.mktemp("saved"))


def take_snapshot(folder: Path, *shares: ShareConfig) -> str:
    with Machine(replace(tiny.config(tiny.make(folder, tiny.ECHO)), shares=shares)) as machine:
        machine.start()
        machine.snapshot(str(folder / "warm"))
    return str(folder / "warm")


@pytest.mark.parametrize("share", [False, True])
def test_a_clone_that_reads_beforehand(tmp_path: Path, share: bool) -> None:
    """What it has to write is written by the first, without a jail.  With a share a thread fills memory."""
    snapshot = take_snapshot(tmp_path, *([ShareConfig(str(tmp_path))] if share else []))
    told = []
    for _ in range(2):
        command = Command(tmp_path, snapshot, "--prefetch", "--json", verb="restore")
        command.type(b"x")
        command.expect("x")
        command.type(b"\4")
        assert command.wait() == 0
        told.append(command.errors)
    assert "no jail: the first clone with --prefetch" in told[0]
    assert '"seccomp"' in told[1] and "no jail" not in told[1]


def names(kinds: int) -> set[str]:
    row = ffi.new("struct seccomp_row *")
    found, index = set(), 0
    while lib.seccomp_row(index, row) == 0:
        if row.whose & kinds:
            found.add(ffi.string(row.name).decode())
        index += 1
    return found


def test_a_machine_with_everything_has_a_list() -> None:
    """As many lines as there can be are one filter."""
    code = """
from vmm.native import lib
kinds = [getattr(lib, name) for name in dir(lib) if name.startswith("SECCOMP_")]
kinds = [kind for kind in kinds if kind not in (lib.SECCOMP_GATEWAY, lib.SECCOMP_RESOLVER)]  # they have no machine
print(lib.seccomp_enter_process(sum(kinds)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_lists_are_short() -> None:
    """A machine that has everything at once: devices of all kinds, a terminal, a control socket, a debugger."""
    # Of the starter's, a jailed process has those that are the first thread's as well
    outside = {"START", "REACH", "BROKER", "SERVER", "SHARES", "FORKS", "HOST", "SPAWN", "GATEWAY", "RESOLVER"}
    machine = {*calls.THREADS} - outside
    for thread in ({"VCPU"}, {"LOOP"}, {"START"}):
        assert len(calls.allowed(*thread, "CHILD", "TTY", "VHOST")) <= 45
    assert len(calls.allowed(*machine)) <= 60
    assert not calls.allowed(*machine) & {"open", "openat", "socket", "execve", "ptrace", "mount"}


def test_a_vcpu_has_no_call_that_its_process_has_not() -> None:
    """In a jail both lists hold: what only the shorter one has would be of no use."""
    process = {"VMM", "BLK", "DISK", "NET", "CONSOLE", "PMEM", "DAX", "TTY", "CHILD", "VHOST"}
    for kind in ("VCPU", "LOOP"):
        assert calls.allowed(kind) <= calls.allowed(*process)


def test_docs_show_the_lists() -> None:
    """Those of threads in docs/reference/system-calls.md are held by test_fs_process.py, like all of that page."""
    assert calls.security() == calls.SECURITY.read_text(), "python -m tools.calls --write"
    for kind in ("BLK", "NET", "VSOCK", "CONSOLE", "PMEM", "RNG", "DAX", "VMM", "VCPU", "LOOP", "START"):
        shown = {row.name for row in calls.rows() if kind in row.whose}
        assert shown == names(getattr(lib, f"SECCOMP_{kind}")), "what is shown is what filters are made of"


def test_each_entry_of_the_lists_is_used_or_has_a_reason() -> None:
    """What nothing uses is not listed.  `python -m tests.record_calls FILE...` writes what tests used into the page."""
    shown = record_calls.shown()
    listed = {kind: {entry.name for entry in each} for kind, each in record_calls.entries().items()}
    assert set(shown) == set(listed)
    for kind, names in listed.items():
        tests, reasons = shown[kind]
        assert not tests.keys() & reasons.keys(), f"{kind}: needs no reason"
        assert tests.keys() | reasons.keys() == names, kind
        assert [test for test in {*tests.values()} if not record_calls.there_is(test)] == [], kind


def test_a_root_disk_beside_a_share_has_the_calls_of_a_disk() -> None:
    disk = lib.SECCOMP_BLK | lib.SECCOMP_DISK
    boot, share = BootConfig("vmlinux"), ShareConfig("/")
    assert calls_of(MachineConfig(boot, rootfs=DiskConfig("disk.img"), shares=(share,))) & disk == disk
    assert not calls_of(MachineConfig(boot, rootfs=share)) & disk
    assert calls_of(MachineConfig(boot, rootfs=share)) & lib.SECCOMP_DAX
