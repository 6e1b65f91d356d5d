"""Compressed kernels: what of a bzImage is loaded where, what its entry finds, and Debian's own kernel.  One that is
not what it says is a ConfigError that names the file, the number and what to do."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import POWEROFF, say
from tests.unit.boot.images import ADDRESS, CODE, FIELDS, START, bzimage, kernel
from vmm import BootConfig, ConsoleConfig, Machine, MachineConfig, MemoryConfig, boot
from vmm.boot import cache, layout
from vmm.boot.loader import find_kernel
from vmm.errors import ConfigError
from vmm.memory import GuestMemory

MIB = 1 << 20


def prepare(path: Path, data: bytes, **options: str) -> tuple[boot.CpuState, GuestMemory]:
    path.write_bytes(data)
    memory = GuestMemory(64 * MIB)
    return boot.prepare(MachineConfig(BootConfig(str(path), **options), MemoryConfig(64 * MIB)), memory), memory


def test_the_kernel_lies_where_it_wants_to_and_is_entered_in_long_mode(tmp_path: Path) -> None:
    data = bzimage(b"code of the kernel", tail=b"signature")
    state, memory = prepare(tmp_path / "vmlinuz", data)
    assert state.rip == ADDRESS + CODE
    assert memory.read(state.rip, 18) == b"code of the kernel"
    assert memory.read(ADDRESS, CODE) == bytes(CODE)
    assert memory.read(ADDRESS + len(data) - START - 9, 9) == bytes(9), "a signature is not loaded"
    assert state.efer & 1 << 10 and state.cr3 == layout.PML4


def test_its_own_header_goes_on_to_the_kernel_but_for_what_a_loader_says(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"i" * 5000)
    data = bzimage(kernel_info_offset=0x1234, setup_data=0xDEAD_0000, type_of_loader=0)
    state, memory = prepare(tmp_path / "vmlinuz", data, initrd=str(initrd), cmdline="=hello")
    page = memory.read(state.rsi, 4096)
    assert page[:0x1F1].count(0) > 0x1E0, "cleared, as the protocol asks"
    assert page[0x202:0x206] == b"HdrS" and page[0x206:0x208] == b"\x0f\x02"
    assert struct.unpack_from("<QII", page, 0x258) == (ADDRESS, MIB, 0)
    assert struct.unpack_from("<I", page, 0x268) == (0x1234,)
    assert struct.unpack_from("<I", page, 0x248) == (CODE,), "where its payload is"
    assert page[0x210] == 0xFF
    assert struct.unpack_from("<Q", page, 0x250) == (layout.SETUP_DATA,), "an address of ours only"
    address, size = struct.unpack_from("<II", page, 0x218)
    assert memory.read(address, size) == b"i" * 5000
    (cmdline,) = struct.unpack_from("<I", page, 0x228)
    assert memory.read(cmdline, 6) == b"hello\0"


def test_a_bzimage_has_no_pvh_entry(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no PVH entry"):
        prepare(tmp_path / "vmlinuz", bzimage(), entry="pvh")


def test_it_is_not_taken_for_another_file_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "vmlinuz"
    first, _ = prepare(path, bzimage(pref_address=0x100_0000))
    os.utime(path, ns=(1, 1))
    second, _ = prepare(path, bzimage(pref_address=0x200_0000))
    assert (first.rip, second.rip) == (0x100_0200, 0x200_0200)


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
def test_its_code_runs(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(say("64\n") + POWEROFF + b"\xf4"))
    with open(tmp_path / "console", "w+b") as console:
        config = MachineConfig(
            BootConfig(str(path)), MemoryConfig(64 * MIB), console=ConsoleConfig("fd", console.fileno())
        )
        with Machine(config) as machine:
            assert machine.run(timeout=60).kind == "poweroff"
        console.seek(0)
        assert console.read() == b"64\n"


# -- the kernel inside of a bzImage: unpacked once, and never taken for another --------------------------------------


ELF = kernel(b"\xf4" * 100, 32 * MIB)


def zstd(data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("no zstd on this host")
    return subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout


def with_size(compress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """As Linux's build does it: the size behind what was compressed."""
    return lambda data: compress(data) + len(data).to_bytes(4, "little")


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": with_size(lzma.compress),
    "lzma": with_size(lambda data: lzma.compress(data, lzma.FORMAT_ALONE)),
    "bzip2": with_size(bz2.compress),
    "zstd": with_size(zstd),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/pyvmm/kernels"


def write(path: Path, data: bytes, seconds: int = 1) -> str:
    """A file that nobody has changed for a while."""
    path.write_bytes(data)
    os.utime(path, (seconds, seconds))
    return str(path)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of last change of a file's node is now, whatever it says of its content."""
    monkeypatch.setattr(cache, "SETTLED_NS", -1)


def unpacked(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.elf"))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("kind", COMPRESS)
def test_the_kernel_inside_is_what_is_booted(tmp_path: Path, folder: Path, kind: str) -> None:
    path = write(tmp_path / "vmlinuz", bzimage(COMPRESS[kind](ELF), init_size=64 * MIB))
    for _ in range(2):
        image = find_kernel(path)
        assert image.pvh_entry == 32 * MIB and not image.setup
        assert Path(image.path).read_bytes() == ELF
        assert [image.path] == [str(each) for each in unpacked(folder)]


@pytest.mark.usefixtures("settled")
def test_a_user_can_have_the_kernel_unpack_itself(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path / "vmlinuz", bzimage(gzip.compress(ELF), init_size=64 * MIB))
    image = find_kernel(path, unpack=False)
    assert (image.path, image.entry64) == (path, ADDRESS + CODE)
    assert unpacked(folder) == []


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "payload",
    [b"", b"1234567", b"\x02\x21\x4c\x18" + bytes(100), with_size(lzma.compress)(b"no ELF file".ljust(100))],
    ids=["nothing", "short", "lz4", "no ELF"],
)
def test_what_is_not_understood_unpacks_itself(tmp_path: Path, folder: Path, payload: bytes) -> None:
    path = write(tmp_path / "vmlinuz", bzimage(payload.ljust(16), payload_length=len(payload)))
    assert find_kernel(path).entry64 == ADDRESS + CODE
    assert unpacked(folder) == []


def damage(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "payload",
    [
        damage(gzip.compress(ELF), 60),
        damage(COMPRESS["xz"](ELF), 80),
        gzip.compress(ELF)[:-4] + (len(ELF) + 1).to_bytes(4, "little"),
        lzma.compress(ELF) + (len(ELF) - 1).to_bytes(4, "little"),
        lzma.compress(ELF) + (len(ELF) + 1).to_bytes(4, "little"),
        lzma.compress(bytes(100 * MIB)) + (200 * MIB).to_bytes(4, "little"),
    ],
    ids=["gzip", "xz", "longer", "xz shorter", "xz longer", "bomb"],
)
def test_damaged_payloads_are_told_with_numbers(tmp_path: Path, folder: Path, payload: bytes) -> None:
    path = write(tmp_path / "vmlinuz", bzimage(payload, init_size=64 * MIB))
    with pytest.raises(ConfigError, match=f"{len(payload)} bytes of") as caught:
        find_kernel(path)
    assert path in str(caught.value) and caught.value.code == "kernel-payload"
    assert "--entry linux64" in caught.value.hint
    assert unpacked(folder) == []


@pytest.mark.usefixtures("settled")
def test_a_new_kernel_of_the_same_name_replaces_the_old_one(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "vmlinuz"
    first = find_kernel(write(path, bzimage(gzip.compress(ELF), init_size=64 * MIB)))
    other = kernel(b"\x90" * 100, 48 * MIB)
    second = find_kernel(write(path, bzimage(gzip.compress(other), init_size=64 * MIB), 2))
    assert (first.pvh_entry, second.pvh_entry) == (32 * MIB, 48 * MIB)
    assert len(unpacked(folder)) == 1


@pytest.mark.usefixtures("settled")
def test_a_file_that_others_can_write_is_not_trusted(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path / "vmlinuz", bzimage(gzip.compress(ELF), init_size=64 * MIB))
    find_kernel(path)
    (kept,) = unpacked(folder)
    kept.write_bytes(kernel(b"\xcc" * 100, 16 * MIB))
    kept.chmod(0o666)
    image = find_kernel(path)
    assert image.pvh_entry == 32 * MIB
    assert Path(image.path).read_bytes() == ELF
    kept.unlink()
    kept.symlink_to(tmp_path / "elsewhere")
    assert find_kernel(path).pvh_entry == 32 * MIB
    assert not (tmp_path / "elsewhere").exists()


def test_without_a_place_to_keep_it_the_kernel_unpacks_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "vmlinuz", bzimage(gzip.compress(ELF)))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "nowhere")
    assert find_kernel(path).entry64 == ADDRESS + CODE


# -- files that are not what they say --


def check(path: Path, data: bytes, *, memory: int = 64 * MIB, initrd: str | None = None) -> boot.BootPlan:
    path.write_bytes(data)
    return boot.check(MachineConfig(BootConfig(str(path), initrd), MemoryConfig(memory)))


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"boot_flag": 0x1234}, "boot flag of this bzImage is 3412"),
        ({"version": 0x20B}, "boot protocol 2.11, 2.12 is the oldest"),
        ({"version": 0}, "boot protocol 0.00"),
        ({"loadflags": 0}, "zImage"),
        ({"xloadflags": 2}, "no 64-bit entry (xloadflags 0x2)"),
        ({"syssize": 0}, "has 0 bytes"),
        ({"syssize": 0x20}, "has 512 bytes"),
        ({"syssize": 0x1000}, "its kernel of 65536 bytes from byte 1536 on ends behind"),
        ({"syssize": 0xFFFF_FFFF}, "ends behind the file's"),
        ({"setup_sects": 0}, "from byte 2560 on ends behind"),
        ({"setup_sects": 255}, "from byte 131072 on ends behind"),
        ({"payload_offset": 0xFFFF_FFFF}, "at 0xffffffff is not inside"),
        ({"payload_length": 0xFFFF_FFFF}, "payload of 4294967295 bytes"),
        ({"kernel_alignment": 0}, "alignment of 0x0"),
        ({"kernel_alignment": 0x30_0000}, "alignment of 0x300000"),
        ({"pref_address": 0}, "loaded at 0x0"),
        ({"pref_address": 0x10_0800}, "loaded at 0x100800"),
        ({"pref_address": 0xC_0000, "kernel_alignment": 0x1000}, "loaded at 0xc0000"),
        ({"pref_address": 0xFFFF_FFFF_FFE0_0000}, "at 0xffffffffffe00000"),
        ({"pref_address": 0xFFE0_0000, "init_size": 0x20_0001}, "must lie below 4 GiB"),
        ({"init_size": 0}, "says that it needs 0 bytes"),
        ({"init_size": 100 * MIB}, "--memory 116M"),
        ({"pref_address": 0xBFE0_0000, "init_size": 4 * MIB}, "hole for devices"),
        ({"pref_address": 0xFEE0_0000}, "hole for devices"),
        ({"jump": 0xFFEB}, "truncated"),
        ({"jump": 0x10EB}, "ends at byte 0x212, before init_size"),
    ],
    ids=str,
)
def test_a_number_that_cannot_be(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    kernel = tmp_path / "vmlinuz-of-mine"
    with pytest.raises(ConfigError) as caught:
        check(kernel, bzimage(**changes)[: 0x300 if changes.get("jump") == 0xFFEB else None])
    assert str(kernel) in str(caught.value)
    assert says in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint and caught.value.code.startswith("kernel-")


def test_every_length_from_nothing_to_all(tmp_path: Path) -> None:
    whole = bzimage()
    for length in range(0, len(whole) - 16, 7):
        with pytest.raises(ConfigError, match="vmlinuz"):
            check(tmp_path / "vmlinuz", whole[:length])


def test_every_byte_of_the_header_is_anything(tmp_path: Path) -> None:
    whole = bzimage()
    chance = random.Random(1)
    outcomes = set()
    for offset in range(0x1F1, 0x270):
        for value in (0, 0xFF, chance.randrange(256)):
            data = bytearray(whole)
            data[offset] = value
            try:
                plan = check(tmp_path / "vmlinuz", bytes(data))
            except ConfigError as error:
                outcomes.add(error.code if "vmlinuz" in str(error) and error.hint else None)
            else:
                (segment,) = plan.image.segments
                assert segment.offset >= START and segment.offset + segment.filesz <= len(whole)
                assert segment.end <= 64 * MIB
    assert len(outcomes) >= 3 and None not in outcomes


def test_fields_are_anything_together(tmp_path: Path) -> None:
    chance = random.Random(2)
    names = [name for name in FIELDS if name not in ("header", "boot_flag")]
    helpful = []
    for _ in range(300):
        changes: dict[str, Any] = {}
        for name in chance.sample(names, 3):
            bits = {"B": 8, "H": 16, "I": 32, "Q": 64}[FIELDS[name][1]]
            changes[name] = chance.choice((0, 1, (1 << bits) - 1, 1 << bits - 1, chance.randrange(1 << bits)))
        try:
            check(tmp_path / "vmlinuz", bzimage(**changes))
        except ConfigError as error:
            helpful.append("vmlinuz" in str(error) and bool(error.hint))
    assert helpful and all(helpful)


def test_an_initrd_stays_where_an_old_kernel_can_reach_it(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(bytes(5000))
    data = bzimage(xloadflags=1, initrd_addr_max=0x37FF_FFFF)
    plan = check(tmp_path / "vmlinuz", data, memory=2048 * MIB, initrd=str(initrd))
    assert plan.initrd is not None and plan.initrd[2] + 5000 <= 0x3800_0000
    plan = check(tmp_path / "vmlinuz", bzimage(), memory=2048 * MIB, initrd=str(initrd))
    assert plan.initrd is not None and plan.initrd[2] + 8192 == 2048 * MIB


def test_a_file_that_is_cut_after_it_was_checked(tmp_path: Path) -> None:
    plan = check(tmp_path / "vmlinuz", bzimage(b"\xf4" * 5000))
    (tmp_path / "vmlinuz").write_bytes(bzimage()[:0x700])
    with pytest.raises(ConfigError, match="changed while it was read"):
        boot.load_files(plan, GuestMemory(64 * MIB))
