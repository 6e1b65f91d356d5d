"""The process that serves a share: killed at any moment, lying, or left behind by a VMM that was killed."""

from __future__ import annotations

import errno
import os
import random
import select
import signal
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
from tests.fs_driver import FsGuest
from tests.pci_driver import PciGuest
from tests.sample_devices import Echo
from vmm.errors import HostError
from vmm.native import ffi, lib
from vmm.virtio import spec
from vmm.virtio.fs import process as fs_process
from vmm.virtio.fs.process import FsProcess

ROOT = Path(__file__).resolve().parents[2]


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
from tests.fs_driver import FsGuest
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
        [sys.executable, "-c", OWNER, str(tmp_path), how], cwd=ROOT, stdout=subprocess.PIPE, process_group=0
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        pidfd = os.pidfd_open(pid)
        time.sleep(random.uniform(0, 0.05))
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
        self.pidfd = lib.fsd_spawn(os.fsencode(fs_process.PROGRAM), sock, pid)
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
        answer = ffi.new("struct fsd_answer *")
        numbers = ffi.new("int[]", [*fds, *[-1] * (lib.FSD_FDS - len(fds))])
        assert lib.fsd_call(self.sock, message, numbers, answer, ffi.NULL, 5000) == 0
        return int(answer.result)

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
