"""The files that guest-kernel's recipes read and write: options, ELF kernels, cpio archives, arguments."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPES = Path(__file__).resolve().parents[2] / "guest-kernel"
sys.path.insert(0, str(RECIPES))

from compact import compact  # noqa: E402
from rootfs import parse_size, parse_with  # noqa: E402

import kconfig  # noqa: E402
from cpio import write_cpio  # noqa: E402
from recipe import RecipeError  # noqa: E402

# -- options ----------------------------------------------------------------------------------------------------------


def test_the_fragments_are_well_formed_and_ask_for_what_pyvmm_needs() -> None:
    options = kconfig.read_fragments(RECIPES / "config")
    for name in ("PVH", "KVM_GUEST", "VIRTIO_MMIO", "VIRTIO_PCI", "VIRTIO_BLK", "EXT4_FS", "FUSE_DAX", "CGROUP_BPF"):
        assert options[f"CONFIG_{name}"] == "y"
    assert options["CONFIG_MODULES"] == "n"


def test_a_configuration_reads_as_options_and_values() -> None:
    text = '# a reason\n\nCONFIG_A=y\nCONFIG_B="two words"\n# CONFIG_C is not set\nCONFIG_D=64\n'
    options = kconfig.parse_config(text, "x.config", strict=True)
    assert options == {"CONFIG_A": "y", "CONFIG_B": '"two words"', "CONFIG_C": "n", "CONFIG_D": "64"}
    assert kconfig.parse_config(kconfig.render(options), "again", strict=True) == options


@pytest.mark.parametrize("line", ["CONFIG_A", "A=y", "# CONFIG_A is not sett", "CONFIG_A=", "CONFIG_OK=n"])
def test_a_line_that_kconfig_would_drop_in_silence_is_named(line: str) -> None:
    with pytest.raises(RecipeError, match=r"my\.config:2: ") as caught:
        kconfig.parse_config(f"CONFIG_OK=y\n{line}\n", "my.config", strict=True)
    assert caught.value.hint


def test_options_that_did_not_survive_are_named_with_what_became_of_them() -> None:
    wanted = {"CONFIG_A": "y", "CONFIG_B": "y", "CONFIG_C": "n", "CONFIG_D": "n"}
    with pytest.raises(RecipeError) as caught:
        kconfig.verify(wanted, {"CONFIG_A": "y", "CONFIG_C": "y"})
    assert "CONFIG_B=y (became n)" in caught.value.message
    assert "CONFIG_C=n (became y)" in caught.value.message
    assert "CONFIG_A" not in caught.value.message and "CONFIG_D" not in caught.value.message


# -- compact ----------------------------------------------------------------------------------------------------------

Segment = tuple[int, int, bytes, int]  # flags, physical address, bytes in the file, bytes of memory


def elf(segments: list[Segment], note: tuple[int, int] | None = None) -> bytes:
    """An ELF kernel; `note` is (physical address, size) of a part of a segment."""
    table, body, offsets = b"", b"", []
    begin = 0x1000
    for flags, address, data, memory in segments:
        offsets.append(begin + len(body))
        table += struct.pack("<IIQQQQQQ", 1, flags, offsets[-1], address + (1 << 40), address, len(data), memory, 4096)
        body += data + bytes(-len(data) % 4096)
    if note:
        at, size = note
        where = next(o + at - s[1] for o, s in zip(offsets, segments, strict=True) if s[1] <= at < s[1] + len(s[2]))
        table += struct.pack("<IIQQQQQQ", 4, 4, where, at + (1 << 40), at, size, size, 4)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    count = len(segments) + bool(note)
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, 0x1234, 64, 0, 0, 64, 56, count, 64, 0, 0)
    return (header + table).ljust(begin, b"\0") + body


def load(file: bytes, base: int, size: int) -> tuple[bytes, list[bytes]]:
    """What a loader makes of `file` in memory full of 0xEE, and its notes."""
    memory, notes = bytearray(b"\xee" * size), []
    table, count = struct.unpack_from("<Q", file, 32)[0], struct.unpack_from("<H", file, 56)[0]
    for index in range(count):
        kind, _, offset, virtual, address, filled, total, align = struct.unpack_from(
            "<IIQQQQQQ", file, table + 56 * index
        )
        assert offset + filled <= len(file) and filled <= total
        if kind == 1:
            assert offset % align == virtual % align == address % align
            memory[address - base : address - base + total] = file[offset : offset + filled].ljust(total, b"\0")
        else:
            notes.append(file[offset : offset + filled])
    return bytes(memory), notes


def test_a_compacted_kernel_loads_the_same_but_for_padding_in_code() -> None:
    code, zeros, gap = os.urandom(0x5000 - 1), bytes(0x40000), b"\xcc" * 0x200000
    segments = [
        (5, 0x100000, code + b"\xcc" + gap + code + zeros + code, 0x300000),
        (6, 0x400000, zeros + code, 0x80000),
        (6, 0x500000, code + zeros, 0x45000),
        (6, 0x600000, b"", 0x3000),
    ]
    whole = elf(segments, note=(0x100123, 0x40))
    small = compact(whole)
    assert len(small) < len(whole) - len(gap) - 2 * len(zeros)
    before, notes = load(whole, 0x100000, 0x600000)
    after, same_notes = load(small, 0x100000, 0x600000)
    assert same_notes == notes == [code[0x123:0x163]]
    hole = slice(0x5000, 0x5000 + len(gap))
    assert after[hole] == b"\xee" * len(gap)
    assert before[: hole.start] + before[hole.stop :] == after[: hole.start] + after[hole.stop :]
    assert small[24:32] == whole[24:32]  # the entry
    assert compact(small) == small


def test_short_padding_stays() -> None:
    data = b"x" * 0x1000 + bytes(0x4000) + b"\xcc" * 0x4000 + b"y" * 0x1000
    before, _ = load(elf([(5, 0x1000, data, len(data))]), 0, 0x10000)
    file = compact(elf([(5, 0x1000, data, len(data))]))
    assert struct.unpack_from("<H", file, 56)[0] == 1
    assert load(file, 0, 0x10000)[0] == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: b"",
        lambda file: b"#!/bin/sh\n" * 20,
        lambda file: file[:0x1800],
        lambda file: file[:54] + b"\x20" + file[55:],
        lambda file: file[:56] + b"\xff\xff" + file[58:],
        lambda file: elf([(5, 0x1001, b"x" * 4096, 4096)]),
    ],
    ids=["empty", "script", "truncated", "entry size", "too many entries", "not at a page"],
)
def test_what_is_no_kernel_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(RecipeError, match="what the linker made"):
        compact(damage(elf([(5, 0x1000, b"x" * 0x2000, 0x2000)])))


# -- cpio -----------------------------------------------------------------------------------------------------------


def test_cpio_unpacks_what_was_written(tmp_path: Path) -> None:
    tree, archive, out = tmp_path / "tree", tmp_path / "a.cpio", tmp_path / "out"
    (tree / "bin" / "déjà").mkdir(parents=True)
    for size in range(5):  # every padding
        (tree / "bin" / ("x" * (10 + size))).write_bytes(b"y" * size)
    (tree / "bin" / "tool").write_bytes(os.urandom(100_000))
    (tree / "bin" / "tool").chmod(0o755)
    (tree / "sh").symlink_to("bin/tool")
    (tree / "lib").symlink_to("bin")
    with open(archive, "wb") as file:
        write_cpio(tree, file)
    out.mkdir()
    unpack = ["cpio"] if shutil.which("cpio") else ["busybox", "cpio"]
    with open(archive, "rb") as file:
        subprocess.run([*unpack, "-i", "-d", "-m"], stdin=file, cwd=out, check=True, capture_output=True)
    for path in tree.rglob("*"):
        other = out / path.relative_to(tree)
        assert other.lstat().st_mode == path.lstat().st_mode
        if path.is_symlink():
            assert os.readlink(other) == os.readlink(path)
        elif path.is_file():
            assert other.read_bytes() == path.read_bytes()
    assert len(list(out.rglob("*"))) == len(list(tree.rglob("*")))


def test_cpio_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with open(os.devnull, "wb") as file, pytest.raises(ValueError, match="fifo"):
        write_cpio(tmp_path, file)


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "x", "-1", "12Q", "1.5G", "1M", "5000000"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--size"):
        parse_size(text)


def test_sizes_are_powers_of_1024() -> None:
    assert [parse_size(text) for text in ("4M", "1g", "8388608")] == [4 << 20, 1 << 30, 8 << 20]


@pytest.mark.parametrize("text", ["/bin/sh", ":/x", "/bin/sh:", "/bin/sh:x", "/bin/sh:/", "/bin/sh:/a/../b", "/no:/x"])
def test_files_to_add_must_be_well_formed(text: str) -> None:
    with pytest.raises(RecipeError, match="--with"):
        parse_with(text)
