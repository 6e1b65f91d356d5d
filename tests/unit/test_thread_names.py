"""What `top -H` shows of a machine: threads with the names of what they do."""

from __future__ import annotations

import time
from pathlib import Path

from tests import tiny
from tests.blk_driver import BlkGuest
from vmm import BootConfig, Machine, MachineConfig
from vmm.virtio.blk.config import disk_letters


def names() -> set[str]:
    return {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}


def wait_for(wanted: set[str]) -> None:
    deadline = time.monotonic() + 60
    while not wanted <= names():  # a thread names itself when it begins
        assert time.monotonic() < deadline, names()
        time.sleep(0.01)


def test_vcpus_and_the_loop(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.say("x"), tiny.HALT)
    with Machine(MachineConfig(BootConfig(kernel), cpus=2)) as machine:
        machine.start()
        wait_for({"vcpu0", "vcpu1", "loop"})
    assert not {"vcpu0", "vcpu1", "loop"} & names()


def test_workers_of_a_disk(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with BlkGuest(image, cpus=2) as guest:
        guest.device.thread_name = "blk-vdb-"
        guest.start()
        wait_for({"blk-vdb-0", "blk-vdb-1"})


def test_letters_of_disks() -> None:
    assert [disk_letters(index) for index in (0, 25, 26, 27, 701, 702)] == [
        "vda",
        "vdz",
        "vdaa",
        "vdab",
        "vdzz",
        "vdaaa",
    ]
