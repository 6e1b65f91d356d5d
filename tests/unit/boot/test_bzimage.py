"""Compressed kernels: what of a bzImage is loaded where, what its entry finds, and Debian's own kernel."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from tests.tiny import POWEROFF, say
from tests.unit.boot.images import ADDRESS, CODE, START, bzimage
from vmm import BootConfig, ConsoleConfig, Machine, MachineConfig, MemoryConfig, boot
from vmm.boot import layout
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
