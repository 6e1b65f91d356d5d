"""The DAX window and guests, or servers, that break its rules."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.command import descriptors
from tests.driver import Buffer
from tests.unit.virtio.test_fs_dax import GPA, ISOLATION, SLOT, WINDOW, DaxGuest
from vmm.native import ffi, lib

TOP = 1 << 64


@ISOLATION
def test_mappings_that_cannot_be(tmp_path: Path, isolation: str) -> None:
    (tmp_path / "file").write_bytes(b"A" * SLOT)
    with DaxGuest(tmp_path, isolation) as guest:
        node = guest.lookup("file").node
        for moffset, length, foffset in (
            *((WINDOW, SLOT, 0), (WINDOW - SLOT, 2 * SLOT, 0), (0, WINDOW + SLOT, 0), (TOP - SLOT, SLOT, 0)),
            *((0, TOP - 4096, 0), (SLOT, TOP - SLOT, 0), (TOP - SLOT, 2 * SLOT, 0)),
            *((4096, SLOT, 0), (1, SLOT, 0), (0, SLOT + 1, 0), (0, 100, 0), (0, 0, 0)),
            *((0, SLOT, 1), (0, SLOT, TOP - 4096), (0, SLOT, (1 << 63) - SLOT), (0, SLOT, 1 << 63)),
        ):
            assert guest.map(node, moffset, length, foffset) == errno.EINVAL, (moffset, length, foffset)
        for flags in (4, 7, TOP - 1):
            assert guest.map(node, 0, SLOT, flags=flags) == errno.EINVAL
        for moffset, length in ((WINDOW, SLOT), (0, WINDOW + SLOT), (1, SLOT), (0, 0), (0, TOP - 4096)):
            assert guest.unmap((moffset, length)) == errno.EINVAL, (moffset, length)
        assert guest.unmap((0, SLOT), count=2) == guest.unmap(count=0xFFFF_FFFF) == errno.EINVAL
        assert bytes(guest.window) == bytes(WINDOW)
        assert guest.counts()["slots"] == 0


@ISOLATION
def test_files_that_cannot_be_mapped(tmp_path: Path, isolation: str) -> None:
    (tmp_path / "file").write_bytes(b"A" * SLOT)
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "fifo")
    os.symlink("file", tmp_path / "link")
    with DaxGuest(tmp_path, isolation) as guest:
        node = guest.lookup("file").node
        assert guest.map(999, 0, SLOT) == errno.ESTALE
        assert guest.map(guest.lookup("dir").node, 0, SLOT) == errno.EISDIR
        assert guest.map(guest.lookup("fifo").node, 0, SLOT) == errno.ENXIO
        assert guest.map(guest.lookup("link").node, 0, SLOT) == errno.ENXIO
        assert guest.map(node, 0, SLOT, fh=12345) == errno.EBADF
        handle = guest.open(node, os.O_RDONLY)
        assert guest.map(node, 0, SLOT, fh=handle, flags=3) == errno.EACCES
        assert guest.map(node, 0, SLOT, fh=handle, flags=2) == 0
        handle = guest.open(node, os.O_RDWR)
        assert guest.map(node, SLOT, SLOT, fh=handle, flags=3) == 0
        assert guest.counts()["slots"] == 2


@ISOLATION
def test_a_read_only_share_is_not_written_through_the_window(tmp_path: Path, isolation: str) -> None:
    (tmp_path / "file").write_bytes(b"A" * SLOT)
    with DaxGuest(tmp_path, isolation, read_only=True) as guest:
        node = guest.lookup("file").node
        for flags in (1, 3):
            assert guest.map(node, 0, SLOT, flags=flags) == errno.EROFS
        assert guest.map(node, 0, SLOT, flags=2) == 0
        guest.window[0:4096] = bytes(4096)
        assert (tmp_path / "file").read_bytes() == b"A" * SLOT


@ISOLATION
def test_a_descriptor_that_points_into_the_window(tmp_path: Path, isolation: str) -> None:
    """It is not RAM: none of our threads ever reads or writes what can vanish under it."""
    (tmp_path / "file").write_bytes(b"A" * SLOT)
    with DaxGuest(tmp_path, isolation) as guest:
        assert guest.map(guest.lookup("file").node, 0, SLOT) == 0
        os.truncate(tmp_path / "file", 0)
        queue = guest.queues[1]
        queue.offer(queue.chain([guest.data(guest.header(f.GETATTR, 1, 16) + bytes(16)), Buffer(GPA, 4096, True)]))
        queue.kick()
        guest.wait_needs_reset()


def test_truncated_again_and_again_while_it_is_looked_at(tmp_path: Path) -> None:
    """Cutting, looking, mapping and shrinking in any order: the window stays whole."""
    path = tmp_path / "file"
    with DaxGuest(tmp_path, "thread") as guest:
        path.write_bytes(b"A" * SLOT)
        node = guest.lookup("file").node
        for turn in range(200):
            with open(path, "r+b") as file:
                file.truncate(turn * 7919 % SLOT if turn % 3 else SLOT)
            if turn % 5 == 0:
                assert guest.map(node, turn % 4 * SLOT, SLOT) == 0
            guest.fault()
            if turn % 7 == 0:
                assert guest.unmap((turn % 4 * SLOT, SLOT)) == 0
        os.truncate(path, 0)
        guest.fault()
        # No page of it is missing: the kernel can read it all into a pipe. A place that was not touched for a while is
        # closed again, and then an access finds it closed, as the guest's first one did.
        reader, writer = os.pipe()
        for at in range(0, WINDOW, 65536):
            try:
                written = os.write(writer, guest.window[at : at + 65536])
            except OSError as error:
                if error.errno != errno.EFAULT or not guest.fault():
                    raise
                written = os.write(writer, guest.window[at : at + 65536])
            assert written == len(os.read(reader, 65536))
        os.close(reader)
        os.close(writer)


class Window:
    """A window, and the other end of its socket."""

    def __init__(self) -> None:
        error = ffi.new("int *")
        self.native = lib.dax_new(WINDOW, error)
        ours, child = ffi.new("int *"), ffi.new("int *")
        assert lib.dax_pair(ours, child) == 0
        assert lib.dax_serve(self.native, ours[0]) == 0
        assert lib.dax_begin(self.native) == 0
        self.sock = socket.socket(fileno=int(child[0]))
        self.sock.settimeout(10)

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
        lib.dax_free(self.native)

    def ask(self, op: int, offset: int, length: int, *fds: int, writable: int = 0, start: int = 0) -> int:
        socket.send_fds(self.sock, [struct.pack("<IIQQQ", op, writable, offset, length, start)], fds)
        return int.from_bytes(self.sock.recv(64), "little", signed=True)


def test_a_server_that_asks_for_what_it_must_not_have(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A" * SLOT)
    with open(path, "rb") as file, Window() as window:
        fd = file.fileno()
        before = descriptors()
        for offset, length in (
            (WINDOW, SLOT),
            (TOP - SLOT, 2 * SLOT),
            (SLOT, WINDOW),
            (4096, 4096),
            (0, 0),
            (0, TOP - 1),
        ):
            assert window.ask(1, offset, length, fd) == -errno.EINVAL
            assert window.ask(2, offset, length) == -errno.EINVAL
        assert window.ask(1, 0, SLOT) == -errno.EINVAL, "no descriptor"
        assert window.ask(2, 0, SLOT, fd) == -errno.EINVAL, "one too many"
        assert window.ask(3, 0, SLOT, fd) == window.ask(1, 0, SLOT, fd, writable=2) == -errno.EINVAL
        assert window.ask(1, 0, SLOT, fd, writable=1) == -errno.EACCES, "it cannot be written"
        reader, writer = os.pipe()
        folder = os.open(tmp_path, os.O_RDONLY)
        for other in (reader, writer, folder, window.sock.fileno()):
            assert window.ask(1, 0, SLOT, other) == -errno.ENODEV
        path_only = os.open(path, os.O_PATH)
        assert window.ask(1, 0, SLOT, path_only) == -errno.EBADF
        for number in (reader, writer, folder, path_only):
            os.close(number)
        assert window.ask(1, 0, SLOT, fd) == 0
        assert descriptors() <= before, "it keeps none"


@pytest.mark.parametrize("message", [b"x", bytes(31), bytes(33), bytes(4096)], ids=len)
def test_a_server_that_talks_nonsense_is_not_listened_to(message: bytes) -> None:
    with Window() as window:
        window.sock.send(message)
        assert window.sock.recv(64) == b""


def test_more_descriptors_than_one(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file, Window() as window:
        before = descriptors()
        socket.send_fds(window.sock, [struct.pack("<IIQQQ", 1, 0, 0, SLOT, 0)], [file.fileno()] * 3)
        assert window.sock.recv(64) == b""
        assert descriptors() <= before


@ISOLATION
def test_files_that_are_the_hosts_kernel_are_not_mapped(isolation: str) -> None:
    with DaxGuest(Path("/"), isolation) as guest:
        for path in (f"proc/{os.getpid()}/environ", "sys/kernel/notes"):
            assert guest.map(guest.walk(path).node, 0, SLOT, flags=1) == errno.EACCES
            assert guest.map(guest.walk(path).node, 0, SLOT) == errno.EACCES
