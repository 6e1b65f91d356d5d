"""Kernel files: what is found in good ones, what is said about bad ones."""

from __future__ import annotations

import gzip
import os
import random
import struct
from pathlib import Path

import pytest

from tests.unit.boot.images import MIB, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_NOTE, Load, elf, kernel, note, pvh_note
from vmm.boot import elf as elf_files
from vmm.boot.image import KernelImage
from vmm.boot.loader import find_kernel
from vmm.errors import ConfigError

CODE = b"\xf4" * 100
HUGE = (1 << 64) - 1


def told(data: bytes, tmp_path: Path) -> ConfigError:
    """The error about a file of these bytes: it names the file and says what to do."""
    path = tmp_path / "vmlinux"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        find_kernel(str(path))
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert caught.value.code.startswith("kernel-")
    return caught.value


def found(data: bytes, tmp_path: Path) -> KernelImage:
    path = tmp_path / "vmlinux"
    path.write_bytes(data)
    return find_kernel(str(path))


def test_segments_and_both_entries_are_found(tmp_path: Path) -> None:
    data = elf(
        [Load(32 * MIB, b"data", 8192), Load(16 * MIB, CODE), Load(64 * MIB, b"", 4096)],
        entry=16 * MIB + 9,
        notes=pvh_note(16 * MIB + 4),
    )
    image = found(data, tmp_path)
    assert [(s.paddr, s.filesz, s.memsz) for s in image.segments] == [
        (16 * MIB, 100, 100),
        (32 * MIB, 4, 8192),
        (64 * MIB, 0, 4096),
    ]
    for segment, content in zip(image.segments, (CODE, b"data", b""), strict=True):
        assert data[segment.offset : segment.offset + segment.filesz] == content
    assert (image.entry64, image.pvh_entry) == (16 * MIB + 9, 16 * MIB + 4)


@pytest.mark.parametrize("size", [4, 8])
def test_pvh_note_may_have_four_or_eight_bytes(tmp_path: Path, size: int) -> None:
    data = elf([Load(MIB, CODE)], entry=MIB, notes=pvh_note(MIB + 1, size))
    assert found(data, tmp_path).pvh_entry == MIB + 1


def test_notes_of_others_are_no_pvh_entry(tmp_path: Path) -> None:
    notes = note(b"Xen", 17, b"\1\0\0\0") + note(b"Linux", 18, b"\1\0\0\0") + note(b"GNU", 3, b"x" * 20)
    assert found(elf([Load(MIB, CODE)], entry=MIB, notes=notes), tmp_path).pvh_entry is None


def test_virtual_entry_is_translated(tmp_path: Path) -> None:
    data = elf([Load(MIB, CODE, vaddr=0xFFFF_FFFF_8000_0000)], entry=0xFFFF_FFFF_8000_0010)
    assert found(data, tmp_path).entry64 == MIB + 0x10


def test_pvh_kernel_needs_no_64_bit_entry(tmp_path: Path) -> None:
    image = found(elf([Load(MIB, CODE)], entry=0, notes=pvh_note(MIB)), tmp_path)
    assert (image.entry64, image.pvh_entry) == (None, MIB)


EXT4 = bytes(0x438) + b"\x53\xef" + bytes(100)


@pytest.mark.parametrize(
    "data, what, hint",
    [
        (b"", "is empty", "vmlinux"),
        (gzip.compress(kernel()), "compressed by gzip", "gzip -dc"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "compressed by zstd", "zstd -dc"),
        (b"\xfd7zXZ\0" + bytes(100), "compressed by xz", "xz -dc"),
        (b"MZ" + bytes(100), "an EFI or Windows program", "vmlinux"),
        (b"070701" + bytes(100), "a cpio archive", "--initrd"),
        (b"QFI\xfb" + bytes(100), "a qcow2 disk image", "--rootfs"),
        (EXT4, "an ext2/3/4 disk image", "--rootfs"),
        (b"#!/bin/sh\n", "a script", "vmlinux"),
        (b"\xde\xad", "starts with de ad", "vmlinux"),
        (b"\x7fEL", "starts with 7f 45 4c", "vmlinux"),
    ],
)
def test_what_is_no_elf_file_is_named(tmp_path: Path, data: bytes, what: str, hint: str) -> None:
    error = told(data, tmp_path)
    assert what in str(error) and hint in error.hint


@pytest.mark.parametrize(
    "data, what",
    [
        (elf([Load(MIB, CODE)], ident=b"\x7fELF\x01\x01\x01"), "32-bit"),
        (elf([Load(MIB, CODE)], ident=b"\x7fELF\x02\x02\x01"), "big-endian"),
        (elf([Load(MIB, CODE)], ident=b"\x7fELF\x07\x01\x01"), "of an unknown kind"),
        (elf([Load(MIB, CODE)], machine=183), "64-bit Arm, not for x86-64"),
        (elf([Load(MIB, CODE)], machine=9999), "machine 9999"),
        (elf([Load(MIB, CODE)], kind=1), "an object file"),
        (elf([Load(MIB, CODE)], kind=3), "position-independent"),
        (elf([Load(MIB, CODE)], kind=4), "a core dump"),
        (elf([Load(MIB, CODE)], kind=77), "of type 77"),
        (elf([Load(MIB, CODE), Load(0, b"/lib64/ld.so\0", kind=PT_INTERP)]), "dynamically linked"),
        (elf([]), "nothing to load"),
        (elf([Load(MIB, b"")]), "nothing to load"),
        (kernel()[:40], "truncated: 40 bytes"),
        (kernel()[:100], "truncated: its program headers end at byte 176, the file has 100"),
        (elf([Load(MIB, CODE)], entry=MIB)[:-10], "truncated: the segment at 0x100000 ends at byte 220"),
        (elf([Load(MIB, CODE, filesz=HUGE)], entry=MIB), "truncated"),
        (elf([Load(MIB, CODE, offset=HUGE)], entry=MIB), "truncated"),
        (elf([Load(MIB, CODE, memsz=50)], entry=MIB), "100 bytes in the file but only 50 in memory"),
        (elf([Load(MIB, CODE), Load(MIB + 99, CODE)], entry=MIB), "0x100063 overlaps the one at 0x100000..0x100064"),
        (elf([Load(MIB, CODE)] * 65, entry=MIB), "65 program headers"),
        (elf([Load(MIB, CODE)], phnum=0xFFFF), "65535 program headers"),
        (elf([Load(MIB, CODE)], phentsize=0), "program headers of 0 bytes"),
        (elf([Load(MIB, CODE)], phoff=HUGE), "truncated: its program headers"),
        (elf([Load(MIB, CODE)], entry=2 * MIB), "no PVH note, and no 64-bit entry"),
        (elf([Load(MIB, CODE)], entry=MIB, notes=pvh_note(2 * MIB)), "PVH entry 0x200000 is outside"),
        (elf([Load(MIB, CODE)], entry=MIB, notes=bytes(70000)), "its notes take 70000 bytes"),
        (elf([Load(MIB, CODE), Load(0, b"abc", filesz=HUGE, kind=PT_NOTE)], entry=MIB), "notes take"),
    ],
)
def test_bad_elf_files_are_told(tmp_path: Path, data: bytes, what: str) -> None:
    assert what in str(told(data, tmp_path))


def test_damaged_property_note_is_told_soon(tmp_path: Path) -> None:
    """A GNU property note that claims gigabytes, in a large sparse file: pyelftools would follow it to the end."""
    claim = struct.pack("<III", 4, 0xFFFF_FFF0, 5) + b"GNU\0"
    path = tmp_path / "vmlinux"
    path.write_bytes(elf([Load(MIB, CODE)], entry=MIB, notes=claim + bytes(60)))
    os.truncate(path, 1 << 40)
    with pytest.raises(ConfigError, match="damaged"):
        find_kernel(str(path))


def test_sections_are_never_looked_at(tmp_path: Path) -> None:
    """Section headers that claim to be billions cost nothing."""
    loads = [Load(MIB, CODE), Load(0, bytes(16), kind=PT_DYNAMIC)]
    data = elf(loads, entry=MIB, shoff=64, shnum=0, shstrndx=0xFFFF)
    assert found(data, tmp_path).entry64 == MIB


@pytest.mark.parametrize("name", ["folder", "fifo", "/dev/null", "missing", "secret", "loop", "a\0b"])
def test_what_cannot_be_read_is_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name if not name.startswith("/") else Path(name)
    expected = {
        "folder": "is a directory",
        "fifo": "is a pipe",
        "/dev/null": "is a device",
        "missing": "No such file",
        "secret": "Permission denied",
        "loop": "symbolic links",
        "a\0b": "a NUL in its name",
    }[name]
    if name == "folder":
        path.mkdir()
    elif name == "fifo":
        os.mkfifo(path)
    elif name == "loop":
        path.symlink_to(path)
    elif name == "secret":
        path.write_bytes(kernel())
        path.chmod(0)
    root = os.geteuid() == 0
    try:
        if root and name == "secret":  # whom nothing is refused
            os.seteuid(65534)
        with pytest.raises(ConfigError, match=expected):
            find_kernel(str(path))
    finally:
        if root:
            os.seteuid(0)


INTERESTING = [0, 1, 2, 7, 8, 56, 64, 0x7F, 0xFF, 0x7FFF, 0xFFFF, MIB, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 40, 1 << 63, HUGE]


def mutate(rng: random.Random, data: bytes, headers: int) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        size = rng.choice((1, 2, 4, 8))
        # Headers mean something, contents do not: most changes go to the headers and the notes
        at = rng.randrange(headers) if rng.random() < 0.7 else rng.randrange(len(changed))
        at -= at % size
        value = rng.choice((*INTERESTING, rng.getrandbits(64), rng.randrange(len(data) + 8)))
        changed[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    if rng.random() < 0.15:
        del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed)


def attempt(path: Path) -> KernelImage | None:
    """None: the error was one that helps."""
    try:
        return find_kernel(str(path))
    except ConfigError as error:
        helps = str(path) in str(error) and bool(error.hint)
    assert helps
    return None


@pytest.mark.parametrize("seed", range(4))
def test_mutated_kernels_load_or_are_told(tmp_path: Path, seed: int) -> None:
    """Whatever is done to a kernel file: an image that keeps its promises, or a ConfigError."""
    rng = random.Random(seed)
    notes = pvh_note(MIB + 4) + note(b"GNU", 5, struct.pack("<II", 2, 4) + bytes(8)) + note(b"GNU", 3, b"i" * 20)
    data = elf(
        [Load(MIB, CODE, 8192), Load(4 * MIB, b"x" * 500), Load(0, b"", 0, kind=PT_LOAD)], entry=MIB, notes=notes
    )
    path = tmp_path / "vmlinux"
    outcomes = {"loaded": 0, "told": 0}
    for _ in range(300):
        path.write_bytes(mutate(rng, data, 64 + 4 * 56))
        image = attempt(path)
        if image is None:
            outcomes["told"] += 1
            continue
        outcomes["loaded"] += 1
        size = path.stat().st_size
        end = 0
        for segment in image.segments:
            assert segment.offset + segment.filesz <= size and segment.filesz <= segment.memsz
            assert segment.paddr >= end
            end = segment.end
        assert any(s.paddr <= (image.pvh_entry or image.entry64 or 0) < s.end for s in image.segments)
    assert min(outcomes.values()) > 20, outcomes


BUILD_ID = note(b"GNU", 3, bytes(range(20)))


@pytest.mark.parametrize(
    ("change", "notes", "expected"),
    [
        ("", BUILD_ID, True),
        ("", note(b"GNU", 1, bytes(20)), False),
        ("another in memory", BUILD_ID, False),
        ("kexec", BUILD_ID, False),
        ("truncated", BUILD_ID, False),
    ],
)
def test_code_and_constants_of_the_kernel_that_runs(tmp_path: Path, change: str, notes: bytes, expected: bool) -> None:
    """What is in a segment that cannot be written, whole pages, without those that only fill a gap."""
    code = b"c" * 8192 + bytes(8192) + b"d" * 5000
    kexec = b"kexec_load_disabled" if change == "kexec" else b""
    constants = notes + b"r" * 4096
    loads = [
        Load(16 * MIB, code, flags=5),
        Load(17 * MIB, constants, flags=4),
        Load(18 * MIB, b"w" * 8192 + kexec, flags=6),
        Load(17 * MIB, notes, kind=PT_NOTE, flags=4),
    ]
    file = elf(loads, entry=16 * MIB)
    path, ram = tmp_path / "vmlinux", tmp_path / "memory"
    path.write_bytes(file[:-9000] if change == "truncated" else file)
    with ram.open("wb+") as memory:
        memory.truncate(32 * MIB)
        for load in loads:
            memory.seek(load.paddr)
            memory.write(load.data)
        if change == "another in memory":
            memory.seek(17 * MIB + 16)
            memory.write(b"x")
        memory.flush()
        found = elf_files.constant(str(path), memory.fileno())
    first = [(16 * MIB, 16 * MIB + 8192), (16 * MIB + 16384, 16 * MIB + 20480), (17 * MIB, 17 * MIB + 4096)]
    assert list(found) == (first if expected else [])


@pytest.mark.parametrize("data", [b"", b"\x7fELF", kernel()[:70], b"no kernel" * 999])
def test_nothing_is_constant_of_what_is_no_kernel(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(data)
    with path.open("rb") as ram:
        assert elf_files.constant(str(path), ram.fileno()) == ()
        assert elf_files.constant(str(tmp_path / "none"), ram.fileno()) == ()
