"""The DAX window: what the driver sees in it, without a guest.  The window is memory of this process."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.fs_driver import FsGuest
from vmm.native import ffi, lib
from vmm.virtio import spec

SLOT = lib.DAX_SLOT
WINDOW = 4 * SLOT
GPA = 0x1_4000_0000
ISOLATION = pytest.mark.parametrize("isolation", ["thread", "process"])


class DaxGuest(FsGuest):
    """A driver with a window, of which :attr:`window` is the host's side."""

    def __init__(self, path: Path, isolation: str, **options: object) -> None:
        super().__init__(path, isolation=isolation, dax=WINDOW, mount=False, **options)  # type: ignore[arg-type]
        region = self.share.regions[0]
        region.gpa = GPA
        self.native = region.native
        self.window = memoryview(ffi.buffer(ffi.cast("char *", region.host_address), region.size))
        self.start()
        self.mount()

    def __enter__(self) -> DaxGuest:
        return self

    def map(
        self, node: int, moffset: int, length: int, foffset: int = 0, flags: int = 3, fh: int = (1 << 64) - 1
    ) -> int:
        """SETUPMAPPING; its errno."""
        return self.errno_of(f.SETUPMAPPING, node, struct.pack("<5Q", fh, foffset, length, flags, moffset), room=0)

    def unmap(self, *ranges: tuple[int, int], count: int | None = None) -> int:
        """REMOVEMAPPING; its errno."""
        body = b"".join(struct.pack("<QQ", *pair) for pair in ranges)
        return self.errno_of(
            f.REMOVEMAPPING, 1, struct.pack("<I", len(ranges) if count is None else count), body, room=0
        )

    def counts(self) -> dict[str, int]:
        return {key[4:]: value for key, value in self.transport.stats().items() if key.startswith("dax_")}

    def fault(self) -> int:
        """What a vCPU does whose access failed: how many slots have lost pages."""
        return int(lib.dax_fault(self.native))


@ISOLATION
def test_the_driver_finds_the_window(tmp_path: Path, isolation: str) -> None:
    with DaxGuest(tmp_path, isolation) as guest:

        def region(number: int) -> tuple[int, int]:
            guest.write(spec.MMIO_SHM_SEL, number)
            words = [guest.read(register) for register in range(spec.MMIO_SHM_LEN_LOW, spec.MMIO_SHM_LEN_LOW + 16, 4)]
            return words[0] | words[1] << 32, words[2] | words[3] << 32

        assert region(0) == (WINDOW, GPA)
        assert region(1) == region(0xFFFF_FFFF) == ((1 << 64) - 1, (1 << 64) - 1)
        assert region(0) == (WINDOW, GPA)
        out = guest.mount()
        flags, alignment = struct.unpack_from("<I", out, 12)[0], struct.unpack_from("<H", out, 30)[0]
        assert flags & 1 << 26
        assert 1 << alignment == SLOT


def test_without_a_window(tmp_path: Path) -> None:
    with FsGuest(tmp_path) as guest:
        guest.write(spec.MMIO_SHM_SEL, 0)
        assert guest.read(spec.MMIO_SHM_LEN_LOW) == guest.read(spec.MMIO_SHM_LEN_HIGH) == 0xFFFF_FFFF
        assert not guest.init_flags & 1 << 26
        assert guest.errno_of(f.SETUPMAPPING, 1, bytes(40), room=0) == 38
        assert guest.errno_of(f.REMOVEMAPPING, 1, bytes(4), room=0) == 38


@ISOLATION
def test_a_file_is_seen_and_changed_in_the_window(tmp_path: Path, isolation: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A" * SLOT + b"B" * SLOT)
    with DaxGuest(tmp_path, isolation) as guest:
        node = guest.lookup("file").node
        assert guest.window[:3] == bytes(3)
        assert guest.map(node, SLOT, SLOT, SLOT) == 0
        assert bytes(guest.window[SLOT - 1 : SLOT + 2]) == b"\0BB"
        guest.window[SLOT : SLOT + 3] = b"new"
        with open(path, "r+b") as file:
            file.seek(SLOT)
            assert file.read(4) == b"newB"
            file.seek(SLOT + 9)
            file.write(b"host")
        assert bytes(guest.window[SLOT + 9 : SLOT + 13]) == b"host"
        # Another piece in the same place, then two places at once
        assert guest.map(node, SLOT, SLOT, 0) == 0
        assert guest.window[SLOT] == ord("A")
        assert guest.map(node, 2 * SLOT, 2 * SLOT, 0) == 0
        assert (guest.window[2 * SLOT], guest.window[3 * SLOT]) == (ord("A"), ord("n"))
        assert guest.counts() == {"maps": 3, "unmaps": 0, "slots": 3, "cut": 0, "faults": 0}
        assert guest.unmap((SLOT, SLOT), (3 * SLOT, SLOT)) == 0
        assert (guest.window[SLOT], guest.window[2 * SLOT], guest.window[3 * SLOT]) == (0, ord("A"), 0)
        guest.start()
        assert guest.window[2 * SLOT] == 0, "a reset of the driver forgets all"
        assert guest.counts()["slots"] == 0


@ISOLATION
def test_a_mapping_to_read_keeps_the_file_as_it_is(tmp_path: Path, isolation: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A" * SLOT)
    with DaxGuest(tmp_path, isolation) as guest:
        node = guest.lookup("file").node
        assert guest.map(node, 0, SLOT, flags=2) == 0
        guest.window[0] = ord("x")  # a guest that does not keep to what it asked for
        assert path.read_bytes()[:2] == b"AA"
        assert guest.map(node, 0, SLOT, flags=3) == 0
        assert guest.window[0] == ord("A")


@ISOLATION
def test_a_file_that_shrinks_and_grows_again(tmp_path: Path, isolation: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A" * SLOT)
    with DaxGuest(tmp_path, isolation) as guest:
        assert guest.map(guest.lookup("file").node, SLOT, SLOT) == 0
        assert guest.fault() == 0, "nothing is missing"
        os.truncate(path, 5000)
        assert guest.fault() == 1
        at = SLOT + 8192
        guest.window[at] = 7  # no longer the file's
        assert bytes(guest.window[at : at + 2]) == b"\7\0"
        assert guest.window[SLOT + 4999] == ord("A")
        assert guest.fault() == 0
        assert path.stat().st_size == 5000
        assert guest.counts()["cut"] == 1
        with open(path, "ab") as file:
            file.write(b"B" * SLOT)
        guest.wait_for("the file is back", lambda: guest.counts()["cut"] == 0)
        assert guest.window[at] == ord("B")


@ISOLATION
def test_small_files_in_large_slots_are_closed_behind_their_ends(tmp_path: Path, isolation: str) -> None:
    """An access there fails at once, and finds what the file has by then, or else zeroes."""
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "other").write_bytes(b"A" * SLOT)
    with DaxGuest(tmp_path, isolation) as guest:
        assert guest.map(guest.lookup("small").node, 0, SLOT) == 0
        assert guest.map(guest.lookup("other").node, SLOT, SLOT) == 0
        assert bytes(guest.window[:6]) == b"small\0"
        os.truncate(tmp_path / "other", 4096)
        assert guest.fault() == 1, "the one that has lost pages"
        assert guest.window[SLOT + 4096] == 0
        for size in (8192, 12000, SLOT):
            with open(tmp_path / "small", "r+b") as file:
                file.seek(size - 5)
                file.write(b"grown")
            assert guest.fault() == 1, "the one that has grown"
            assert bytes(guest.window[size - 5 : size]) == b"grown"


@ISOLATION
def test_a_place_first_mapped_after_the_file_has_shrunk(tmp_path: Path, isolation: str) -> None:
    """The guest's idea of the size is an old one: it reads zeroes, at once, and what the file has when it has grown."""
    path = tmp_path / "file"
    path.write_bytes(b"A" * 2 * SLOT)
    with DaxGuest(tmp_path, isolation) as guest:
        node = guest.lookup("file").node
        os.truncate(path, 5000)
        assert guest.map(node, 0, SLOT) == 0
        assert guest.map(node, SLOT, SLOT, SLOT) == 0
        assert bytes(guest.window[4999:5001]) == b"A\0"
        assert guest.counts()["cut"] == 0, "what nobody touches costs nothing"
        assert guest.fault() == 2
        assert (guest.window[8192], guest.window[SLOT], guest.window[2 * SLOT - 1]) == (0, 0, 0)
        path.write_bytes(b"B" * 2 * SLOT)
        guest.wait_for("the file is back", lambda: guest.counts()["cut"] == 0)
        guest.fault()  # what was not touched is closed once more, and opens
        assert (guest.window[8192], guest.window[SLOT], guest.window[2 * SLOT - 1]) == (66, 66, 66)


def test_a_new_mapping_ends_what_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A" * SLOT)
    with DaxGuest(tmp_path, "thread") as guest:
        node = guest.lookup("file").node
        for again in ("map", "unmap"):
            path.write_bytes(b"A" * SLOT)
            assert guest.map(node, 0, SLOT) == 0
            os.truncate(path, 4096)
            assert guest.fault() == 1
            guest.window[SLOT - 1] = 9
            assert (guest.map(node, 0, 4096) if again == "map" else guest.unmap((0, SLOT))) == 0
            assert guest.counts()["cut"] == 0
            assert guest.window[SLOT - 1] == 0


def test_the_window_is_a_multiple_of_huge_pages(tmp_path: Path) -> None:
    """Guest and host addresses agree in their last 21 bits."""
    with DaxGuest(tmp_path, "thread") as guest:
        assert guest.share.regions[0].host_address % SLOT == 0
        assert mmap.PAGESIZE == 4096
