"""bzImages that are not what they say: each is a ConfigError that names the file, the number and what to do."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.unit.boot.images import FIELDS, START, bzimage
from vmm import BootConfig, MachineConfig, MemoryConfig, boot
from vmm.errors import ConfigError
from vmm.memory import GuestMemory

MIB = 1 << 20


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
