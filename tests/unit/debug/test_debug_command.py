"""`pyvmm debug` as far as it goes without Linux: the RAM of a machine that runs, and what is told when it cannot be."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests import tiny
from tools.where import PYVMM
from vmm import ConfigError, HostError, Machine
from vmm.debug import GdbServer, GdbTarget
from vmm.debug.client import PhysicalMemory
from vmm.debug.kernel import open_program

KVM = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")


@KVM
def test_another_process_reads_the_ram_of_a_guest_that_goes_on(tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/gdb"
    count = b"\xff\x05" + (tiny.BASE + 0x1000).to_bytes(4, "little") + b"\xeb\xf8"
    with Machine(tiny.config(tiny.make(tmp_path, count))) as machine:
        with GdbServer(machine, GdbTarget.parse(where)):
            machine.start()
            with PhysicalMemory(where) as memory:
                assert memory.regions == [(0, 32 << 20)]
                assert memory.read(tiny.BASE, len(count)) == count
                data = bytes(range(256)) * 256
                machine.memory.write(0x100000, data)
                assert memory.read(0x100000, len(data)) == data, "in several packets"
                assert memory.read(0x100000, 0) == b""
                with pytest.raises(HostError, match="no RAM at 0x1ffffff"):
                    memory.read((32 << 20) - 1, 2)
                before = memory.read(tiny.BASE + 0x1000, 4)
                deadline = time.monotonic() + 60
                while memory.read(tiny.BASE + 0x1000, 4) == before:
                    assert time.monotonic() < deadline, "the guest runs meanwhile"
                assert machine.state == "running"


def test_mistakes_are_told_with_a_way_out(tmp_path: Path) -> None:
    none = tmp_path / "none"
    with pytest.raises(HostError, match=str(none)) as caught:
        PhysicalMemory(f"unix:{none}")
    assert "--gdb" in caught.value.hint
    kernel = tiny.make(tmp_path)
    for path, words in ((str(none), "No such file"), (kernel, "has no symbols"), (__file__, "Magic number")):
        with pytest.raises(ConfigError, match=words) as refused:
            open_program(lambda _at, size: bytes(size), [(0, 1 << 20)], path)
        assert path in str(refused.value)


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    command = [PYVMM, "debug", "--vm", f"unix:{tmp_path}/none", "--vmlinux", "vmlinux.debug"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"cannot reach a machine at unix:{tmp_path}/none" in done.stderr and "hint:" in done.stderr
    assert "Traceback" not in done.stderr
