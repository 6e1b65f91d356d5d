"""The process that serves a share: killed at any moment, lying, or left behind by a VMM that was killed; and what
somebody who has taken it over could go on with (its system calls: tests/native/src/test_fsd.c)."""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import select
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fs_driver as f
from tests.command import of_threads
from tests.driver import TIMEOUT, Guest
from tests.fs_driver import ROOT, FsGuest, cstr
from tests.pci_driver import PciGuest
from tests.sample_devices import Echo
from tools import calls
from vmm.errors import HostError
from vmm.events import EventFd
from vmm.memory import GuestMemory
from vmm.native import ffi, lib
from vmm.virtio import spec
from vmm.virtio.fs import process as fs_process
from vmm.virtio.fs.process import FsProcess

TOP = Path(__file__).resolve().parents[2]
CAP_DAC_READ_SEARCH, CAP_MKNOD = 2, 27
MOST_CALLS = 85

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's server has no privileges to keep")


def process(path: Path, **options: object) -> FsGuest:
    return FsGuest(path, isolation="process", **options)  # type: ignore[arg-type]


def pid_of(guest: FsGuest) -> int:
    return int(guest.transport.stats()["server"])


def wait_end(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(TIMEOUT * 1000))


def freeze(pid: int) -> None:
    """Stop all of its threads, for sure."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + TIMEOUT
    while any("State:\tT" not in text for text in of_threads("status", pid).values()):
        assert time.monotonic() < end


# -- its death -----------------------------------------------------------------------------------------------


def test_its_death_is_an_error_on_the_mount_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with process(tmp_path, cpus=2) as guest:
        node = guest.create("file")[0].node
        os.kill(pid_of(guest), signal.SIGKILL)
        for queue in (guest.queues[1], guest.queues[2], guest.queues[1]):
            assert guest.errno_of(f.GETATTR, node, bytes(16), queue=queue) == errno.EIO
        guest.forget(node)
        assert guest.errno_of(f.INIT, 0, bytes(64)) == errno.EIO
        assert not guest.status & spec.DEVICE_NEEDS_RESET
        assert guest.transport.stats()["server"] == 0
        assert [record.message for record in caplog.records] == [
            "share share: its server was killed by signal 9; the guest sees I/O errors on this mount"
        ]
        # A driver that starts again gets the same
        guest.start()
        assert guest.errno_of(f.INIT, 0, bytes(64)) == errno.EIO
        assert len(caplog.records) == 1
        guest.transport.pause()
        guest.transport.resume()
        assert guest.errno_of(f.INIT, 0, bytes(64)) == errno.EIO


@pytest.mark.usefixtures("virtqueues")
@pytest.mark.parametrize("seed", range(12))
def test_killed_under_load_every_request_is_answered_once(tmp_path: Path, seed: int) -> None:
    """What was done before, with its result; what was under way, or came after, with EIO."""
    rng = random.Random(seed)
    with process(tmp_path) as guest:
        fh = guest.create("file")[1]
        queue, pid = guest.queues[1], pid_of(guest)
        pending: dict[int, tuple[list[object], int]] = {}
        answers: list[int] = []

        def take() -> None:
            for used in queue.take_used():
                answer, unique = pending.pop(used.head)
                number, got, _ = guest.answer(answer, used.written)
                assert got == unique
                answers.append(number)

        kill_at, sent = rng.randrange(1, 400), 0
        for _ in range(500):
            body = struct.pack("<QQIIQII", fh, 0, 4096, 0, 0, 0, 0)
            head, answer = guest.submit(f.WRITE, f.ROOT, body, bytes(4096), room=8, queue=queue)
            pending[head] = answer, guest.unique
            sent += 1
            if sent == kill_at:
                os.kill(pid, signal.SIGKILL)
            if len(pending) > 60:
                guest.wait_for("answers", queue.has_used)
                take()
        while pending:
            guest.wait_for("all answers", queue.has_used)
            take()
        assert len(answers) == sent
        assert set(answers) <= {0, errno.EIO}
        assert answers[-1] == errno.EIO, "these came after its death"
        assert not guest.status & spec.DEVICE_NEEDS_RESET


@pytest.mark.parametrize("what", ["reset", "pause", "close", "stats"])
def test_stopped_and_never_answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """A server that hangs is ended: it holds nobody up for ever."""
    with process(tmp_path) as guest:
        pid = pid_of(guest)
        pidfd = os.pidfd_open(pid)
        monkeypatch.setattr(fs_process, "ANSWER_MS", 300)
        monkeypatch.setattr(fs_process, "END_MS", 300)
        freeze(pid)
        head, answer = guest.submit(f.GETATTR, f.ROOT, bytes(16))
        if what == "reset":
            guest.status = 0
        elif what == "stats":
            assert guest.transport.stats()["server"] == 0
        elif what == "pause":
            guest.transport.pause()
            guest.transport.resume()
        if what in ("stats", "pause"):
            (used,) = guest.queues[1].wait()
            assert used.head == head
            assert guest.answer(answer, used.written)[0] == errno.EIO
    assert wait_end(pidfd)
    os.close(pidfd)


# -- the VMM's death -----------------------------------------------------------------------------------------

OWNER = """
import os, sys, time
from tests.fs_driver import ROOT, FsGuest, cstr
guest = FsGuest(sys.argv[1], isolation="process")
if sys.argv[2] == "forked" and os.fork() == 0:
    time.sleep(60)  # has the VMM's end of the socket, too
    os._exit(0)
print(guest.transport.stats()["server"], flush=True)
fh = guest.create("file")[1]
while True:
    guest.write_file(fh, b"x" * 4096)
"""


@pytest.mark.parametrize("how", ["alone", "forked"])
def test_it_does_not_outlive_the_vmm(tmp_path: Path, how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), how], cwd=TOP, stdout=subprocess.PIPE, process_group=0
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        pidfd = os.pidfd_open(pid)
        time.sleep(random.uniform(0, 0.05))  # any moment will do
        owner.kill()
        owner.wait()
        assert wait_end(pidfd), "the server still runs"
        os.close(pidfd)
        os.killpg(owner.pid, signal.SIGKILL) if how == "forked" else None


# -- a guest that breaks rules -------------------------------------------------------------------------------


def test_a_broken_ring_is_told_by_the_vmm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with process(tmp_path) as guest:
        pid = pid_of(guest)
        queue = guest.queues[1]
        queue.write_avail_idx((queue.next_avail + 2000) & 0xFFFF)
        queue.kick()
        guest.wait_needs_reset()
        assert "2000 ahead" in caplog.text
        guest.start()
        guest.mount()
        assert pid_of(guest) == pid


class SilentGuest(FsGuest, PciGuest):
    """On PCI, where a driver may give a queue no vector."""

    def reset(self) -> None:
        super().reset()
        for index in range(len(self.kicks)):
            self.common(spec.PCI_COMMON_Q_SELECT, 2, index)
            self.common(spec.PCI_COMMON_Q_MSIX, 2, spec.MSI_NO_VECTOR)


def test_a_queue_without_an_interrupt_is_served(share: Path) -> None:
    with SilentGuest(share, isolation="process", mount=False) as guest:
        guest.start()
        queue = guest.queues[1]
        guest.submit(f.INIT, 0, struct.pack("<5I44x", 7, 41, 1 << 20, 0, 0))
        guest.wait_for("an answer", queue.has_used)
        assert not guest.status & spec.DEVICE_NEEDS_RESET
        assert guest.transport.stats()["server"]


# -- a server that lies --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("virtqueues")
def test_books_that_cannot_be(tmp_path: Path) -> None:
    """What it says it has taken off a ring is checked; then the device needs a reset."""
    with process(tmp_path) as guest:
        device = guest.share
        assert isinstance(device, FsProcess)
        freeze(pid_of(guest))
        size = lib.RING_STATE_STRIDE
        ffi.memmove(device._books, random.Random(1).randbytes(4 * size), 4 * size)
        os.kill(device.pid, signal.SIGKILL)
        guest.wait_needs_reset()


@pytest.mark.parametrize("what", ["reset", "pause", "close"])
def test_books_that_cannot_be_when_the_device_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The machine goes on, and so does the next driver."""
    monkeypatch.setattr(fs_process, "ANSWER_MS", 300)
    monkeypatch.setattr(fs_process, "END_MS", 300)
    with process(tmp_path) as guest:
        device = guest.share
        assert isinstance(device, FsProcess)
        freeze(pid_of(guest))
        ffi.memmove(device._books, random.Random(1).randbytes(4 * lib.RING_STATE_STRIDE), 4 * lib.RING_STATE_STRIDE)
        if what == "pause":
            guest.transport.pause()
            guest.transport.resume()
            assert guest.status & spec.DEVICE_NEEDS_RESET
        if what != "close":
            guest.start()
            assert not guest.status & spec.DEVICE_NEEDS_RESET


@settings(max_examples=300, deadline=None)
@given(
    raw=st.binary(min_size=144, max_size=144),
    indices=st.tuples(st.integers(0, 65535), st.integers(0, 70)),
    busy=st.sets(st.integers(0, 1023), max_size=70),
    whole=st.booleans(),
)
def test_any_books_are_refused_or_make_a_ring_that_works(
    raw: bytes, indices: tuple[int, int], busy: set[int], whole: bool
) -> None:
    with Guest(Echo()) as guest:
        queue = guest.start(size=64)
        config = ffi.new(
            "struct ring_config *", {"size": 64, "desc": queue.desc, "avail": queue.avail, "used": queue.used}
        )
        error = ffi.new("int *")
        ring = lib.ring_new(guest.memory.native, config, error)
        state = ffi.new("struct ring_state *")
        if whole:
            ffi.memmove(state, raw, 144)
        else:
            state.next_used, state.next_avail = indices[0], sum(indices) & 0xFFFF
            for head in busy:
                state.busy[head // 64] |= 1 << head % 64
        iov = ffi.new("struct iovec[]", 64)
        chain = ffi.new("struct chain *", {"max": 64, "iov": iov})
        left = lib.ring_adopt(ring, state)
        if left < 0:
            assert left == -errno.EPROTO
            assert lib.ring_pop(ring, chain) <= 0
        else:
            assert 0 <= left <= 64
            for index in range(64):
                queue.write_desc(index, guest.alloc(16), 16)
            heads = []
            for _ in range(left):
                assert lib.ring_pop(ring, chain) == 1
                heads.append(chain.head)
            assert sorted(heads) == sorted(set(heads))
            assert [lib.ring_push(ring, head, 0) for head in heads] == [0] * left
            assert all(lib.ring_push(ring, head, 0) == -errno.EINVAL for head in heads)
            lib.ring_flush(ring)
        lib.ring_free(ring)


LIAR = """#!{python} -IS
import os, socket, sys, time
sock = socket.socket(fileno=3)
lie = {lie!r}
while True:
    message = sock.recv(65536)
    if not message:
        sys.exit()
    size = {size}
    good = message[:8] + bytes(size - 8)
    if lie == "short":
        sock.send(good[:-1])
    elif lie == "long":
        sock.send(good + b"x")
    elif lie == "version":
        sock.send(b"\\xff" * 4 + good[4:])
    elif lie == "other":
        sock.send(message[:4] + b"\\x63\\0\\0\\0" + good[8:])
    elif lie == "result":
        sock.send(good[:8] + b"\\x01\\0\\0\\0" + good[12:])
    elif lie == "text":
        sock.send(good[:8] + (-5).to_bytes(4, "little", signed=True) + b"\\xff" * (size - 12))
    elif lie == "descriptors":
        socket.send_fds(sock, [good], [0, 1, 2])
    elif lie == "silence":
        time.sleep(60)
    elif lie == "end":
        sys.exit(3)
"""


@pytest.mark.parametrize(
    "lie", ["short", "long", "version", "other", "result", "text", "descriptors", "silence", "end"]
)
def test_answers_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    program = tmp_path / "liar"
    size = ffi.sizeof("struct fsd_answer")
    program.write_text(LIAR.format(python=os.path.realpath(sys.executable), lie=lie, size=size))
    program.chmod(0o755)
    monkeypatch.setattr(fs_process, "PROGRAM", str(program))
    monkeypatch.setattr(fs_process, "ANSWER_MS", 1000)
    monkeypatch.setattr(fs_process, "END_MS", 100)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HostError, match="cannot isolate itself"):
        process(tmp_path)
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # the test's own guest; no descriptor of the liar's


def test_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fs_process, "PROGRAM", str(tmp_path / "missing"))
    with pytest.raises(HostError, match="No such file"):
        process(tmp_path)


# -- a VMM that lies: the server checks what it is told ------------------------------------------------------


class Server:
    """The program, and messages to it."""

    def __init__(self) -> None:
        sock, pid = ffi.new("int *"), ffi.new("int *")
        self.pidfd = lib.process_spawn(os.fsencode(fs_process.PROGRAM), sock, pid)
        assert self.pidfd >= 0
        self.sock, self.pid = int(sock[0]), int(pid[0])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.sock)
        assert wait_end(self.pidfd)
        os.waitpid(self.pid, 0)
        os.close(self.pidfd)

    def call(self, op: int, *fds: int, version: int = lib.FSD_VERSION, **fields: Any) -> int:
        """The answer's result."""
        message = ffi.new("struct fsd_msg *", {"version": version, "op": op, **fields})
        answer = ffi.addressof(room := ffi.new("struct fsd_figures *"), "answer")
        numbers = ffi.new("int[]", [*fds, *[-1] * (lib.FSD_FDS - len(fds))])
        assert lib.fsd_call(self.sock, message, numbers, answer, ffi.NULL, 5000) == 0
        return int(room.answer.result)

    def set_up(self, path: Path) -> None:
        root, own = os.open(path, os.O_PATH | os.O_DIRECTORY), os.pidfd_open(os.getpid())
        assert self.call(lib.FSD_SETUP, root, own) == 0
        os.close(root)
        os.close(own)


def test_messages_out_of_order(tmp_path: Path) -> None:
    with Server() as server:
        assert server.call(99) == -errno.EOPNOTSUPP
        assert server.call(lib.FSD_CHECK, version=7) == -errno.EPROTO
        assert server.call(lib.FSD_SETUP) == -errno.EINVAL
        for op in (lib.FSD_MEMORY, lib.FSD_START, lib.FSD_STATS):
            assert server.call(op) == -errno.EINVAL
        assert server.call(lib.FSD_RESET) == -errno.EBUSY
        server.set_up(tmp_path)
        assert server.call(lib.FSD_FAULTS) == -errno.EBUSY, "too late"
        assert server.call(lib.FSD_SETUP, 0, 1) == -errno.EINVAL, "twice"
        assert server.call(lib.FSD_START, index=0) == -errno.EINVAL, "no memory yet"


@pytest.mark.parametrize(
    "regions, status, expected",
    [
        ([], 0x60, errno.EINVAL),
        ([(0, 0, 0)], 0x60, errno.EINVAL),
        ([(0, 8192, 0), (4096, 4096, 0)], 0x60, errno.EINVAL),
        ([((1 << 64) - 4096, 8192, 0)], 0x60, errno.EINVAL),
        ([(0, 4096, (1 << 64) - 1)], 0x60, errno.EINVAL),
        ([(0, 1 << 40, 0)], 0x60, errno.ENOMEM),
        ([(0, 8192, 0)], 4096, errno.EINVAL),
        ([(0, 8192, 0)], 0x61, errno.EINVAL),
        ([(0, 8192, 0)], 0x60, 0),
    ],
)
def test_memory_that_cannot_be(tmp_path: Path, regions: list[tuple[int, int, int]], status: int, expected: int) -> None:
    fds = [os.memfd_create("test") for _ in range(3)]
    for fd, size in zip(fds, (8192, lib.FSD_QUEUES * lib.RING_STATE_STRIDE, 4096), strict=True):
        os.ftruncate(fd, size)
    with Server() as server:
        server.set_up(tmp_path)
        fields: dict[str, Any] = {"nregions": len(regions), "region": regions, "status_offset": status}
        assert server.call(lib.FSD_MEMORY, *fds, **fields) == -expected
        assert server.call(lib.FSD_START, *fds, index=lib.FSD_QUEUES) == -errno.EINVAL
    for fd in fds:
        os.close(fd)


def test_a_message_of_another_size_ends_it() -> None:
    with Server() as server:
        os.write(server.sock, b"short")
        assert wait_end(server.pidfd)


# -- who has taken it over -----------------------------------------------------------------------------------


def capabilities(guest: FsGuest) -> set[int]:
    """All that any thread of the server has, or could have."""
    found = 0
    for text in of_threads("status", guest.transport.stats()["server"]).values():
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if line.startswith("Cap"))
        found |= int(fields["CapPrm"], 16) | int(fields["CapBnd"], 16)
    return {bit for bit in range(64) if found >> bit & 1}


@as_root
def test_no_file_is_opened_by_handle_unless_asked_for(share: Path) -> None:
    """A handle with inode 2 is the root of the file system, above every share."""
    with FsGuest(share, isolation="process") as guest:
        guest.lookup("file")
        assert CAP_DAC_READ_SEARCH not in capabilities(guest)
    with FsGuest(share, isolation="process", handles=True) as guest:
        guest.lookup("file")
        assert CAP_DAC_READ_SEARCH in capabilities(guest)


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_no_device_is_made(share: Path, isolation: str) -> None:
    """But a whiteout, which is a device by its type only."""
    with FsGuest(share, isolation=isolation) as guest:
        for kind, number in ((stat.S_IFCHR, 0x103), (stat.S_IFBLK, 0x700), (stat.S_IFBLK, 0), (stat.S_IFCHR, 1 << 20)):
            body = struct.pack("<4I", kind | 0o666, number, 0, 0)
            assert guest.errno_of(f.MKNOD, ROOT, body, cstr("device")) == errno.EPERM
        guest.call(f.MKNOD, ROOT, struct.pack("<4I", stat.S_IFCHR, 0, 0, 0), cstr("whiteout"))
        if isolation == "process":
            assert CAP_MKNOD not in capabilities(guest)
    assert sorted(os.listdir(share)) == ["dir", "file", "whiteout"]


def test_its_limits(share: Path) -> None:
    with FsGuest(share, isolation="process") as guest:
        lines = Path(f"/proc/{guest.transport.stats()['server']}/limits").read_text().splitlines()
        limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}
        assert limits["Max core file size"] == ["0", "0"]
        soft, hard = limits["Max open files"]
        assert soft == hard and int(hard) <= 2 * 65536 + 8192


@pytest.mark.parametrize("isolation", ["process", "thread"])
@pytest.mark.parametrize("handles", [False, True], ids=["names", "handles"])
def test_what_it_remembers_has_a_limit_in_bytes(share: Path, isolation: str, handles: bool) -> None:
    """Names of 255 bytes take more than the nodes that have them."""
    for n in range(400):
        (share / f"{n:0255}").touch()
    with FsGuest(share, isolation=isolation, handles=handles, node_bytes=32 << 10) as guest:
        nodes = []
        for n in range(400):
            if (full := guest.errno_of(f.LOOKUP, ROOT, cstr(f"{n:0255}"))) != 0:
                break
            nodes.append(guest.lookup(f"{n:0255}").node)
        assert full == errno.ENFILE
        assert 50 < len(nodes) < 400, "32 KiB"
        for node in nodes:
            guest.getattr(node)
        for node in nodes:
            guest.forget(node, 2)
        guest.wait_for("the nodes to go", lambda: guest.share.stats()["nodes"] == 0)
        for n in range(400 - len(nodes), 400):
            guest.lookup(f"{n:0255}")


def test_its_list_of_system_calls_is_short_and_in_the_docs() -> None:
    names = calls.names_of(calls.SERVER)
    assert len(names) < MOST_CALLS, "one more with handles"
    assert not names & {"execve", "open_by_handle_at", "socket", "mount", "ptrace", "ioctl", "setresuid", "chdir"}
    assert calls.page() == calls.PAGE.read_text(), "python -m tools.calls --write"
    assert calls.shares() == calls.SHARES.read_text(), "python -m tools.calls --write"


def test_shared_memory_is_neither_shortened_nor_lengthened(share: Path) -> None:
    """What the server truncates would be a SIGBUS in the VMM: guest RAM, notes about rings, the interrupt status."""
    with FsGuest(share, isolation="process", memory=GuestMemory(32 << 20, shared=True)) as guest:
        server = guest.share
        assert isinstance(server, FsProcess)
        for fd in (guest.memory.fd, server._books_fd, guest.registers.status_place[0]):
            for size in (0, os.fstat(fd).st_size - 4096, os.fstat(fd).st_size + 4096):
                with pytest.raises(PermissionError):
                    os.ftruncate(fd, size)
        assert guest.lookup("file").attr.size == 10000
        guest.memory.clear()  # a reset of the machine still gives the pages back


WAITING = """
import os
from vmm.events import EventFd

event = EventFd()
os.set_blocking(event.fd, True)
assert event.clear() == 0
event.signal()
assert event.clear() == 1
"""


def test_an_event_that_is_made_to_block_holds_nobody_up() -> None:
    """The flag is the open file's, which the server shares."""
    subprocess.run([sys.executable, "-c", WAITING], check=True, timeout=20)


def test_an_event_that_is_full_is_no_error() -> None:
    event = EventFd()
    os.eventfd_write(event.fd, (1 << 64) - 2)
    event.signal()
    assert event.clear() == (1 << 64) - 2
    event.close()


def test_guest_memory_is_not_in_a_core_dump() -> None:
    for shared in (False, True):
        memory = GuestMemory(64 << 20, shared=shared)
        smaps = Path("/proc/self/smaps").read_text().split("VmFlags:")
        at = memory.host_address
        inside = [
            flags.split("\n")[0].split()
            for before, flags in itertools.pairwise(smaps)
            if (span := re.search(r"^([0-9a-f]+)-([0-9a-f]+) ", before, re.M))
            and int(span[1], 16) <= at < int(span[2], 16)
        ]
        assert len(inside) == 1 and "dd" in inside[0]
        memory.close()
