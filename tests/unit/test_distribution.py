"""Modules of a distribution's kernel: which are loaded, in which order, and what an initrd gets of them."""

from __future__ import annotations

import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from tools.distribution import DistributionError, Kernel, Modules, without_signature, write_modules


def module(**fields: str) -> bytes:
    """What matters of a module file: its .modinfo, strings that end with a NUL."""
    info = "".join(f"{field}={value}\0" for field, value in fields.items())
    return b"\x7fELF\0" + info.encode()


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """A module tree as distributions ship it: compressed or not, in subdirectories, with built-in ones listed."""
    files = {
        "fs/ext4/ext4.ko.xz": module(softdep="pre: crypto-crc32c", depends="jbd2,mbcache"),
        "fs/jbd2/jbd2.ko": module(depends=""),
        "fs/mbcache.ko.xz": module(depends=""),
        "crypto/crc32c_generic.ko.xz": module(depends="virtio"),
        "drivers/block/virtio_blk.ko.xz": module(depends="virtio-ring"),
        "drivers/virtio/virtio-ring.ko": module(depends="virtio"),
    }
    tree = tmp_path / "kernel-6" / "modules"
    for name, content in files.items():
        path = tree / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
    (tree / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n")
    return Kernel("6", tree.parent)


def test_what_a_module_needs_is_loaded_before_it(kernel: Kernel) -> None:
    order = list(Modules(kernel.modules, ["virtio_blk", "ext4", "virtio"]).order)
    assert order[:2] == ["virtio_ring", "virtio_blk"]
    assert set(order[2:-1]) == {"jbd2", "mbcache", "crc32c_generic"} and order[-1] == "ext4"


def test_a_module_that_is_not_there_is_named(kernel: Kernel) -> None:
    with pytest.raises(DistributionError, match="no module btrfs"):
        Modules(kernel.modules, ["btrfs"])


def test_an_initrd_gets_unpacked_files_and_their_order(kernel: Kernel, tmp_path: Path) -> None:
    made = write_modules(kernel, ["ext4"], tmp_path)
    names = (made / "order").read_text().split()
    assert names[-1] == "ext4.ko" and {path.name for path in made.iterdir()} == {*names, "order"}
    assert (made / "ext4.ko").read_bytes().startswith(b"\x7fELF")
    assert write_modules(kernel, ["ext4"], tmp_path) == made, "it is made once"


def test_a_signature_is_cut_off() -> None:
    signature = b"s" * 100
    trailer = bytes(8) + len(signature).to_bytes(4, "big") + b"~Module signature appended~\n"
    assert without_signature(b"\x7fELF module" + signature + trailer) == b"\x7fELF module"
    assert without_signature(b"\x7fELF module") == b"\x7fELF module"


# -- the library is typed for those who use it: a program of theirs is checked by mypy --strict, mistakes included


PROGRAM = """
import asyncio
from vmm import AsyncMachine, BootConfig, DiskConfig, EndEvent, Event, Machine, MachineConfig

def run(config: MachineConfig) -> str:
    with Machine(config) as machine:
        machine.start()
        for event in machine.events():
            if isinstance(event, EndEvent):
                return event.kind
        rip: int = machine.vcpus[0].regs.rip
        data: bytes = machine.memory.read(rip, 4)
        end: EndEvent | None = machine.shutdown(timeout=1.0)
    return ""

async def arun(config: MachineConfig) -> bytes:
    async with AsyncMachine(config) as vm:
        end: EndEvent = await vm.run(timeout=3)
        return await vm.console.readline()

print(run(MachineConfig(BootConfig("vmlinux"), rootfs=DiskConfig("root.img"))))
"""
MISTAKES = """
from vmm import BootConfig, Machine, MachineConfig

Machine(MachineConfig("vmlinux"))
Machine(MachineConfig(BootConfig("vmlinux"))).run(timeout="60")
"""


def check(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), "program.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)


def test_a_program_that_uses_the_library_is_checked(tmp_path: Path) -> None:
    done = check(tmp_path, PROGRAM)
    assert done.returncode == 0, done.stdout


def test_its_mistakes_are_found(tmp_path: Path) -> None:
    done = check(tmp_path, MISTAKES)
    assert 'program.py:4: error: Argument 1 to "MachineConfig"' in done.stdout
    assert 'program.py:5: error: Argument "timeout" to "run"' in done.stdout
