"""The persistent memory device (virtio 1.2, 5.19): a file as memory, flushes, and files that change under it."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from tests.driver import Guest
from vmm.errors import ConfigError
from vmm.native import ffi, lib
from vmm.virtio import spec
from vmm.virtio.pmem import PmemConfig
from vmm.virtio.pmem import device as pmem_spec
from vmm.virtio.pmem.device import Pmem

MIB = 1 << 20
FLUSH = struct.pack("<I", pmem_spec.PMEM_REQ_FLUSH)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"A" * (4 * MIB))
    return path


def window(pmem: Pmem) -> memoryview:
    """What the guest has."""
    base = ffi.cast("uint8_t *", pmem.region.host_address)
    return memoryview(ffi.buffer(base, pmem.region.size))


def test_what_the_driver_sees(image: Path) -> None:
    pmem = Pmem(PmemConfig(str(image)))
    pmem.region.gpa = 5 << 30
    with Guest(pmem) as guest:
        assert guest.read(spec.MMIO_DEVICE_ID) == spec.ID_PMEM
        guest.start()
        assert (guest.config(0, 8), guest.config(8, 8)) == (5 << 30, 4 * MIB)
        assert pmem.region.host_address % (2 * MIB) == 0


def test_what_the_guest_writes_is_in_the_file(image: Path) -> None:
    pmem = Pmem(PmemConfig(str(image)))
    with Guest(pmem) as guest:
        queue = guest.start()
        with window(pmem) as view:
            assert bytes(view[:4]) == b"AAAA"
            view[MIB : MIB + 5] = b"hello"
        answer = guest.room(4)
        assert queue.send(guest.data(FLUSH), answer).written == 4
        assert guest.content(answer) == struct.pack("<I", pmem_spec.PMEM_RESP_OK)
        assert pmem.stats() == {"flushes": 1, "errors": 0, "cuts": 0}
    assert image.read_bytes()[MIB : MIB + 5] == b"hello"


def test_many_flushes_are_answered_by_few(image: Path) -> None:
    with Guest(Pmem(PmemConfig(str(image)))) as guest:
        queue = guest.start()
        answers = [guest.room(4) for _ in range(30)]
        queue.offer(*(queue.chain([guest.data(FLUSH), answer]) for answer in answers))
        queue.kick()
        queue.wait(30)
        assert {guest.content(answer) for answer in answers} == {bytes(4)}
        assert guest.device.stats()["flushes"] <= 30


def test_a_read_only_image_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"B" * (2 * MIB + 512))
    pmem = Pmem(PmemConfig(str(path), read_only=True))
    with Guest(pmem) as guest:
        queue = guest.start()
        assert pmem.region.size == 4 * MIB
        assert pmem.region.read_only
        with window(pmem) as view:
            assert bytes(view[: 2 * MIB + 513]) == b"B" * (2 * MIB + 512) + b"\0"
            assert not any(view[2 * MIB + 512 :])
        answer = guest.room(4)
        queue.send(guest.data(FLUSH), answer)
        assert guest.content(answer) == bytes(4)


def test_sizes_and_files_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x" * (2 * MIB + 512))
    with pytest.raises(ConfigError, match="multiple of 2 MiB"):
        Pmem(PmemConfig(str(path)))
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="empty"):
        Pmem(PmemConfig(str(path), read_only=True))
    with pytest.raises(ConfigError, match="No such file"):
        Pmem(PmemConfig(str(tmp_path / "none")))


def test_readers_share_an_image_and_writers_do_not(image: Path) -> None:
    first, second = (Pmem(PmemConfig(str(image), read_only=True)) for _ in range(2))
    with pytest.raises(ConfigError, match="in use"):
        Pmem(PmemConfig(str(image)))
    first.close()
    second.close()
    Pmem(PmemConfig(str(image))).close()


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_shrinks_and_grows(image: Path, read_only: bool) -> None:
    """What is lost becomes zeroes before anybody touches it, and is back when the file is."""
    pmem = Pmem(PmemConfig(str(image), read_only))
    with Guest(pmem) as guest:
        guest.start()
        guest.wait_for("the worker to watch", lambda: lib.pmem_fault(pmem._pmem) == 0)
        os.truncate(image, 5000)
        guest.wait_for("the cut", lambda: pmem.stats()["cuts"] == 1)
        with window(pmem) as view:
            assert bytes(view[:5001]) == b"A" * 5000 + b"\0"
            assert not any(view[8192:])
        with open(image, "r+b") as file:
            file.write(b"C" * (4 * MIB))
        with window(pmem) as view:
            guest.wait_for("the file", lambda: bytes(view[-4:]) == b"CCCC")
            assert bytes(view[8192:8200]) == b"C" * 8


def test_a_fault_finds_what_is_lost(image: Path) -> None:
    pmem = Pmem(PmemConfig(str(image)))
    assert lib.pmem_fault(pmem._pmem) == 0, "nothing is wrong"
    os.truncate(image, MIB)
    assert lib.pmem_fault(pmem._pmem) == 1
    assert lib.pmem_fault(pmem._pmem) == 0
    with window(pmem) as view:
        assert not any(view[MIB:])
        view[2 * MIB] = 7
    os.truncate(image, 16 * MIB)
    assert lib.pmem_fault(pmem._pmem) == 1
    with window(pmem) as view:
        assert len(view) == 4 * MIB and not any(view[MIB:])
    pmem.close()


def test_pause_and_resume(image: Path) -> None:
    with Guest(Pmem(PmemConfig(str(image)))) as guest:
        queue = guest.start()
        for _ in range(5):
            guest.transport.save()
            answer = guest.room(4)
            queue.send(guest.data(FLUSH), answer)
            assert guest.content(answer) == bytes(4)


def test_the_command_lines_words() -> None:
    assert PmemConfig.parse("a,,b") == PmemConfig("a,b")
    assert PmemConfig.parse("a,ro") == PmemConfig("a", True)
    for wrong in ("", ",ro", "a,rw", "a,ro,ro"):
        with pytest.raises(ConfigError):
            PmemConfig.parse(wrong)
