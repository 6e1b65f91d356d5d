"""A worker that somebody has taken over: it makes system calls that it has no use for.

Code of the tests' own is put into the threads of real devices, where nothing of the product leads: a library that swaps
a worker's function for one that makes a call.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.blk_driver import BlkGuest
from tests.command import links_of, of_threads
from tests.driver import Guest
from tests.native.programs import INCLUDES, SRC, VMM, needed_compiler
from tests.net_driver import NetGuest
from tests.vsock_driver import VsockGuest
from vmm.errors import ForbiddenCallError
from vmm.native import ffi, lib
from vmm.options.limit import LimitConfig
from vmm.processes.broker import Broker
from vmm.virtio.console.device import VirtioConsole
from vmm.virtio.pmem import PmemConfig
from vmm.virtio.pmem.device import Pmem
from vmm.virtio.rng import RngConfig
from vmm.virtio.rng.device import Rng
from vmm.virtio.vsock import device as vsock_spec

KVM_CREATE_VM = 0xAE01
NR_FUTEX = 202
AT_FDCWD = -100
CALLS: dict[str, tuple[int, ...]] = {
    "open": (2, 0, 0),
    "openat": (257, AT_FDCWD, 0, 0),
    "openat2": (437, AT_FDCWD, 0, 0),
    "socket": (41, 2, 1, 0),
    "execve": (59, 0, 0, 0),
    "ptrace": (101, 0, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "kill": (62, 0, 0),
    "ioctl": (16, -1, KVM_CREATE_VM, 0),
    "clone": (56, 17, 0, 0, 0, 0),
    "clone3": (435, 0, 0),
    "io_uring_setup": (425, 1, 0),
    "io_uring_register": (427, -1, 0, 0, 0),
    "prctl": (157, 4, 1, 0, 0, 0),
    "rt_sigaction": (13, 31, 0, 0, 8),
    "mprotect to code": (10, 0, 4096, 5),
    "futex of another process": (202, 0, 2, 0, 0, 0),
    "no call at all": (1 << 20,),
    "an x32 call": (0x40000001, 1, 0, 0),
}


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("inject") / "inject.so"
    compiler = needed_compiler("asan")
    flags = ("-std=gnu11", "-shared", "-fPIC", *INCLUDES)
    subprocess.run([compiler, *flags, "-o", str(target), str(SRC / "inject.c")], check=True)
    return ctypes.CDLL(str(target))


def inject(library: ctypes.CDLL, worker: Any, call: tuple[int, ...]) -> None:
    """Have the thread of *worker* make a call, as soon as it turns to its ring."""
    arguments = (ctypes.c_long * 7)(*call)
    library.inject(ctypes.c_void_p(int(ffi.cast("uintptr_t", worker))), arguments)


@contextmanager
def blk(tmp_path: Path, limit: LimitConfig | None = None) -> Iterator[Guest]:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with BlkGuest(image, limit=limit) as guest:
        guest.start()
        yield guest


@contextmanager
def net(_: Path, limit: LimitConfig | None = None) -> Iterator[Guest]:
    with NetGuest(limit=limit) as guest:
        yield guest


@contextmanager
def rng(_: Path, limit: LimitConfig | None = None) -> Iterator[Guest]:
    with Guest(Rng(RngConfig(limit=limit))) as guest:
        guest.start()
        yield guest


@contextmanager
def vsock(tmp_path: Path) -> Iterator[Guest]:
    with VsockGuest(tmp_path) as guest:
        yield guest


@contextmanager
def console(tmp_path: Path) -> Iterator[Guest]:
    with open(os.devnull, "wb") as out, Guest(VirtioConsole(out_fd=out.fileno())) as guest:
        guest.start()
        yield guest


@contextmanager
def pmem(tmp_path: Path) -> Iterator[Guest]:
    image = tmp_path / "pmem.img"
    image.write_bytes(bytes(2 << 20))
    with Guest(Pmem(PmemConfig(str(image)))) as guest:
        guest.start()
        yield guest


Make = Callable[[Path], AbstractContextManager[Guest]]
KINDS: dict[str, Make] = {"blk": blk, "net": net, "rng": rng, "vsock": vsock, "console": console, "pmem": pmem}
LIMITED: dict[str, Make] = {
    "blk": partial(blk, limit=LimitConfig(ops=1 << 20)),
    "net": partial(net, limit=LimitConfig(ops=1 << 20)),
    "rng": partial(rng, limit=LimitConfig(1 << 20)),
}
"""A worker with a limit has a timer, and is put on no thread that was made ahead."""


def wait_for_error(guest: Guest, library: ctypes.CDLL) -> ForbiddenCallError:
    """What stops the control loop, and with it a machine."""
    deadline = time.monotonic() + 60
    device: Any = guest.device
    worker = int(ffi.cast("uintptr_t", device._workers._running[0][0]))
    while guest.error is None:
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)
        library.kick(ctypes.c_void_p(worker))
    error, guest.error = guest.error, None
    assert isinstance(error, ForbiddenCallError)
    return error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_machine_ends(injector: ctypes.CDLL, tmp_path: Path, kind: str, call: tuple[int, ...]) -> None:
    """With an error that names the call; the device closes the descriptors of the worker that made it."""
    before = links_of()
    with LIMITED.get(kind, KINDS[kind])(tmp_path) as guest:
        device: Any = guest.device
        ((worker, _queues), *_) = device._workers._running
        inject(injector, worker, call)
        error = wait_for_error(guest, injector)
        assert lib.worker_walled(worker)
        assert error.code == "forbidden-call"
        assert f"({call[0]})" in str(error) or f" {call[0]}," in str(error)
        assert device._workers._name(0) in str(error)
    assert links_of() == before


def walled(name: str) -> set[int]:
    """The threads of this process that have that name, and a list of system calls."""
    status = of_threads("status")
    return {each for each, text in status.items() if f"Name:\t{name}\n" in text and "Seccomp:\t2" in text}


def wait_for_walled(name: str, number: int) -> set[int]:
    deadline = time.monotonic() + 60
    while len(found := walled(name)) != number:
        assert time.monotonic() < deadline, found
    return found


def wait_for_futex(thread: int) -> None:
    """A thread that was made ahead is used once it waits, which is a moment after it has its list."""
    deadline = time.monotonic() + 60
    while of_threads("syscall").get(thread, "").split()[:1] != [str(NR_FUTEX)]:
        assert time.monotonic() < deadline, "it does not wait"


@pytest.mark.parametrize("kind", ["net", "vsock", "console"])
def test_a_worker_on_a_thread_that_was_made_ahead_has_no_more(injector: ctypes.CDLL, tmp_path: Path, kind: str) -> None:
    folders = [tmp_path / name for name in ("before", "after")]
    for folder in folders:
        folder.mkdir()
    with KINDS[kind](folders[0]) as like:
        first: Any = like.device
        name = first._workers._name(0)
        spares = first.spares()
        assert len(spares) == 1
    there = wait_for_walled(name, 1)
    wait_for_futex(*there)
    with KINDS[kind](folders[1]) as guest:
        device: Any = guest.device
        ((worker, _queues),) = device._workers._running
        assert wait_for_walled(name, 1) == there
        inject(injector, worker, CALLS["openat"])
        assert f"({CALLS['openat'][0]})" in str(wait_for_error(guest, injector))
    lib.spare_free(spares[0])


def test_threads_that_nobody_has_taken_end(tmp_path: Path) -> None:
    with console(tmp_path) as like:
        device: Any = like.device
        name = device._workers._name(0)
        spares = [spare for _ in range(3) for spare in device.spares()]
    wait_for_walled(name, 3)
    for spare in spares:
        lib.spare_free(spare)
    wait_for_walled(name, 0)


REACHING = {
    "openat of a name": (257, AT_FDCWD, 0, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC),
    "socket": (41, socket.AF_UNIX, socket.SOCK_STREAM, 0),
    "connect": (42, -1, 0, 0),
}


@pytest.mark.parametrize("call", REACHING.values(), ids=REACHING)
def test_where_a_broker_connects_the_worker_does_not(
    injector: ctypes.CDLL, tmp_path: Path, call: tuple[int, ...]
) -> None:
    with VsockGuest(tmp_path, start=False) as guest:
        broker = Broker(guest.vsock)
        guest.begin()
        try:
            program, port, source = guest.from_guest()
            guest.send(vsock_spec.VSOCK_OP_RW, port, source, b"through the broker")
            assert program.recv(100) == b"through the broker"
            guest.send(vsock_spec.VSOCK_OP_REQUEST, 4711, 5)
            assert guest.expect(vsock_spec.VSOCK_OP_RST).src_port == 4711, "nobody listens"
            ((worker, _queues),) = guest.vsock._workers._running
            inject(injector, worker, call)
            assert f"({call[0]})" in str(wait_for_error(guest, injector))
        finally:
            guest.vsock.stop()
            broker.close()


@pytest.mark.parametrize("kind", [vsock_spec.VSOCK_TYPE_STREAM, vsock_spec.VSOCK_TYPE_SEQPACKET])
def test_a_guest_whose_broker_is_gone_is_refused(tmp_path: Path, kind: int) -> None:
    sort = socket.SOCK_SEQPACKET if kind == vsock_spec.VSOCK_TYPE_SEQPACKET else socket.SOCK_STREAM
    with VsockGuest(tmp_path, start=False) as guest, guest.listen(1000, sort):
        broker = Broker(guest.vsock)
        guest.begin()
        guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 5, kind=kind)
        guest.expect(vsock_spec.VSOCK_OP_RESPONSE)
        os.kill(broker.pid, signal.SIGKILL)
        os.waitid(os.P_PID, broker.pid, os.WEXITED | os.WNOWAIT)
        for source in range(6, 9):
            guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, source, kind=kind)
            assert guest.expect(vsock_spec.VSOCK_OP_RST).dst_port == source
        guest.vsock.stop()
        broker.close()


def test_this_process_is_as_it_was(injector: ctypes.CDLL, tmp_path: Path) -> None:
    with blk(tmp_path) as guest:
        device: Any = guest.device
        inject(injector, device._workers._running[0][0], CALLS["openat"])
        wait_for_error(guest, injector)
    status = Path("/proc/self/status").read_text()
    assert "NoNewPrivs:\t0" in status and "Seccomp:\t0" in status
    assert subprocess.run([sys.executable, "-c", "pass"]).returncode == 0


def test_who_ignores_the_signal_makes_no_call_either(tmp_path: Path, injector: ctypes.CDLL) -> None:
    """With SIGSYS blocked the kernel ends the process; the call is not made."""
    code = f"""
import ctypes, os, pathlib, sys
sys.path.insert(0, {str(VMM.parent)!r})
from tests.hostile import test_forbidden_calls as t
with t.blk(pathlib.Path({str(tmp_path)!r})) as guest:
    library = ctypes.CDLL({injector._name!r})
    library.block_signals_first()
    t.inject(library, guest.device._workers._running[0][0], t.CALLS["execve"])
    t.wait_for_error(guest, library)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -31


FILLED = """
import sys
from vmm.saving.memory_file import open_ram
memory = open_ram(1 << 20, [sys.argv[1]], huge_pages="auto", shared=True, prefault=False, on_demand=True)
print(memory.on_demand, flush=True)
input()
print("survived", memory.read(0, 1))
"""
PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_ATTACH, PTRACE_DETACH, WALL = 12, 13, 16, 17, 0x40000000
RAX, ORIG_RAX, RIP = 10, 15, 16
ARGUMENTS = (14, 13, 12, 7, 9, 8)
"""Of struct user_regs_struct: rdi, rsi, rdx, r10, r8, r9."""


def waiting_thread(pid: int, name: str) -> int:
    """The thread of that name, when it waits in epoll_wait() (232)."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        named = [thread for thread, text in of_threads("comm", pid).items() if text == f"{name}\n"]
        calls = of_threads("syscall", pid)
        for thread in named:
            if calls.get(thread, "").startswith("232 "):
                return thread
        time.sleep(0.005)
    raise AssertionError(f"no thread {name} waits")


def take_over(thread: int, call: tuple[int, ...]) -> None:
    """Have a thread that waits in a system call make another one."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    regs = (ctypes.c_uint64 * 27)()
    assert ptrace(PTRACE_ATTACH, thread, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(thread, WALL)
    assert ptrace(PTRACE_GETREGS, thread, None, regs) == 0
    regs[RAX], regs[ORIG_RAX], regs[RIP] = call[0], (1 << 64) - 1, regs[RIP] - 2  # the instruction once more
    for register, value in zip(ARGUMENTS, call[1:], strict=False):
        regs[register] = value & (1 << 64) - 1
    assert ptrace(PTRACE_SETREGS, thread, None, regs) == 0
    assert ptrace(PTRACE_DETACH, thread, None, None) == 0


@pytest.mark.parametrize("call", ["open", "socket", "execve", "ptrace", "mount", "kill", "ioctl", "clone"])
def test_the_thread_that_fills_memory_ends_the_process(tmp_path: Path, call: str) -> None:
    """Others wait for it, and for nobody else."""
    template = tmp_path / "memory"
    template.write_bytes(os.urandom(1 << 20))
    command = [sys.executable, "-c", FILLED, str(template)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        if process.stdout.readline() != "True\n":
            process.kill()
            pytest.skip("nobody may have a userfaultfd here")
        filler = waiting_thread(process.pid, "ram-fill")
        take_over(filler, CALLS[call])
        out, errors = process.communicate("\n", timeout=60)
    assert process.returncode == 1, (process.returncode, out)
    assert f"thread ram-fill tried the system call {call} ({CALLS[call][0]})" in errors
    assert process.returncode == 1 and "survived" not in out


def test_lists_are_short() -> None:
    call = ffi.new("struct seccomp_row *")
    kinds = ("BLK", "NET", "VSOCK", "CONSOLE", "PMEM", "RNG", "DAX")
    count = dict.fromkeys([getattr(lib, f"SECCOMP_{kind}") for kind in kinds], 0)
    index = 0
    while lib.seccomp_row(index, call) == 0:
        for kind in count:
            count[kind] += bool(call.whose & kind)
        index += 1
    # A disk's worker gives its io_uring back, which it cannot make any more
    assert max(count.values()) <= 21, count
