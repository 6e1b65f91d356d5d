"""The library is typed for those who use it: a program of theirs is checked by mypy --strict, mistakes included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
