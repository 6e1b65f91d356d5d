"""Guest RAM: what lies where, and that nothing outside can be reached."""

from __future__ import annotations

import os

import pytest

from vmm.errors import ConfigError, GuestError
from vmm.memory import HOLE_END, HOLE_START, GuestMemory, regions
from vmm.native import ffi, lib

GIB = 1 << 30


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(1 << 20)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (4096, [(0, 4096, 0)]),
        (3 * GIB, [(0, 3 * GIB, 0)]),
        (3 * GIB + 4096, [(0, 3 * GIB, 0), (4 * GIB, 4096, 3 * GIB)]),
        (300 * GIB, [(0, 3 * GIB, 0), (4 * GIB, 297 * GIB, 3 * GIB)]),
    ],
)
def test_ram_lies_around_the_hole(size: int, expected: list[tuple[int, int, int]]) -> None:
    assert [(r.gpa, r.size, r.offset) for r in regions(size)] == expected


def test_hundreds_of_gib_are_mapped_and_cost_only_what_is_touched() -> None:
    with_hole = GuestMemory(300 * GIB)
    with_hole.write(300 * GIB + GIB - 8, b"the end.")
    assert with_hole.read(300 * GIB + GIB - 8, 8) == b"the end."
    assert os.fstat(with_hole.fd).st_blocks * 512 <= 2 << 20
    with_hole.close()


@pytest.mark.parametrize("size", [0, -4096, 100, 4097])
def test_a_size_that_is_no_number_of_pages_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=str(size)):
        GuestMemory(size)


@pytest.mark.parametrize("mode", ["none", "thp"])
def test_prefaulted_memory_is_there_at_once(mode: str) -> None:
    memory = GuestMemory(4 << 20, huge_pages=mode, prefault=True)
    assert os.fstat(memory.fd).st_blocks * 512 >= 4 << 20
    memory.close()


def test_hugetlb_pages_that_are_not_reserved_are_an_error_with_a_hint() -> None:
    with open("/proc/meminfo") as info:
        free = int(next(line for line in info if line.startswith("HugePages_Free")).split()[1])
    size = (free + 8) * (2 << 20)
    with pytest.raises(Exception, match="guest memory") as caught:
        GuestMemory(size, huge_pages="hugetlb", prefault=True)
    assert "nr_hugepages" in caught.value.hint  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("gpa", "length"),
    [
        (0, (1 << 20) + 1),
        (1 << 20, 1),
        (1 << 20, 0),
        ((1 << 20) - 1, 2),
        (1 << 63, 8),
        ((1 << 64) - 1, 2),
        (-1, 1),
        (0, -1),
    ],
)
def test_no_access_outside_ram(memory: GuestMemory, gpa: int, length: int) -> None:
    with pytest.raises(GuestError):
        memory.read(gpa, length)
    with pytest.raises(GuestError):
        memory.view(gpa, length)
    if length >= 0:
        with pytest.raises(GuestError):
            memory.write(gpa, bytes(length))


def test_no_access_over_the_hole() -> None:
    memory = GuestMemory(3 * GIB + 4096)
    for gpa, length in ((HOLE_START - 1, 2), (HOLE_START, 1), (HOLE_END - 1, 2), (HOLE_START - 8, HOLE_END)):
        with pytest.raises(GuestError):
            memory.read(gpa, length)
        assert lib.mem_ptr(memory.native, gpa, length) == ffi.NULL
    memory.write(HOLE_END, b"high")
    assert bytes(ffi.buffer(lib.mem_ptr(memory.native, HOLE_END, 4), 4)) == b"high"
    memory.close()


@pytest.mark.parametrize("gpa,length", [(1 << 20, 1), (0, (1 << 20) + 1), (4096, (1 << 64) - 1), ((1 << 64) - 1, 1)])
def test_c_agrees_about_what_is_outside(memory: GuestMemory, gpa: int, length: int) -> None:
    assert lib.mem_ptr(memory.native, gpa, length) == ffi.NULL


def test_a_view_is_the_memory_itself(memory: GuestMemory) -> None:
    view = memory.view(0x1000, 4)
    memory.write(0x1000, b"abcd")
    assert bytes(view) == b"abcd"
    view[0:2] = b"XY"
    assert memory.read(0x1000, 4) == b"XYcd"


def test_memory_with_a_view_out_is_not_unmapped_under_it(memory: GuestMemory) -> None:
    view = memory.view(0, 16)
    with pytest.raises(BufferError):
        memory.close()
    view[0] = 7
    assert memory.read(0, 1) == b"\x07"
    view.release()
    memory.close()
    memory.close()


def test_integers_are_little_endian_and_cut(memory: GuestMemory) -> None:
    memory.write_int(0, 2, 0x12345)
    assert memory.read(0, 2) == b"\x45\x23"
    assert memory.read_int(0, 2) == 0x2345
