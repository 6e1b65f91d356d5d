"""Disks that are something special on the host: a block device, a file on a full file system. These need root."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import tool
from vmm import DiskConfig

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount and make loop devices")
MIB = 1 << 20


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "small", str(folder)]).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    tool("umount", str(folder))


@pytest.fixture
def block_device(tmp_path: Path) -> Iterator[str]:
    """A loop device of 16 MiB."""
    image = tmp_path / "backing.img"
    image.touch()
    os.truncate(image, 16 * MIB)
    modprobe = shutil.which("modprobe", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin:/run/lab")
    if modprobe:
        subprocess.run([modprobe, "loop"])
    done = subprocess.run(["losetup", "-f", "--show", str(image)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        pytest.skip("this host has no loop devices")
    yield done.stdout.strip()
    tool("losetup", "-d", done.stdout.strip())


def test_full_host_file_system(small_file_system: Path, boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    image = small_file_system / "big.img"
    image.touch()
    os.truncate(image, 64 * MIB)
    guest = boot(disks=[image])
    with caplog.at_level(logging.ERROR, logger="vmm"):
        status, output = guest.run("dd if=/dev/zero of=/dev/vdb bs=1M count=16 oflag=direct")
        assert status != 0 and "error" in output.lower()
        status, output = guest.run("dd if=/dev/urandom of=/dev/vdb bs=1M count=16 conv=fsync")
        assert status != 0 and "error" in output.lower()
    messages = [record.getMessage() for record in caplog.records if str(image) in record.getMessage()]
    assert len(messages) == 1, "told once, not for each of the writes"
    assert "No space left on device" in messages[0]

    # Everything else goes on, this disk too as far as it can
    guest.check("dd if=/dev/urandom of=/root/data bs=1M count=4 conv=fsync status=none && md5sum /root/data")
    guest.check("dd if=/dev/vdb of=/dev/null bs=1M count=2 iflag=direct status=none")
    guest.check("blkdiscard /dev/vdb && dd if=/dev/urandom of=/dev/vdb bs=1M count=2 conv=fsync status=none")
    assert guest.power_off().kind == "poweroff"


def test_block_device(block_device: str, boot: Boot) -> None:
    guest = boot(disks=[DiskConfig(block_device)])
    assert guest.check("blockdev --getsize64 /dev/vdb") == f"{16 * MIB}\n"
    written = guest.check("""
        dd if=/dev/urandom of=/tmp/data bs=1M count=16 status=none
        dd if=/tmp/data of=/dev/vdb bs=1M conv=fsync status=none
        md5sum </tmp/data
    """).split()[0]
    assert hashlib.md5(Path(block_device).read_bytes()).hexdigest() == written
    guest.check("blkdiscard -o 4194304 -l 4194304 /dev/vdb && echo 3 >/proc/sys/vm/drop_caches")
    data = Path(block_device).read_bytes()
    assert data[4 * MIB : 8 * MIB] == bytes(4 * MIB)
    assert hashlib.md5(data).hexdigest() == guest.check("md5sum </dev/vdb").split()[0]


def test_direct_io_on_a_block_device(block_device: str, boot: Boot) -> None:
    guest = boot(disks=[DiskConfig(block_device, direct=True)])
    written = guest.check("""
        dd if=/dev/urandom of=/tmp/data bs=1M count=8 status=none
        dd if=/tmp/data of=/dev/vdb bs=512 count=100 oflag=direct status=none
        dd if=/tmp/data of=/dev/vdb bs=1M conv=fsync status=none
        echo 3 >/proc/sys/vm/drop_caches
        dd if=/dev/vdb bs=1M count=8 status=none | md5sum
        md5sum </tmp/data
    """).split()
    assert written[0] == written[2] == hashlib.md5(Path(block_device).read_bytes()[: 8 * MIB]).hexdigest()


def flushes_of_host(device: str) -> int:
    """How many flushes the host's kernel has sent to a block device."""
    return int(Path("/sys/block", Path(device).name, "stat").read_text().split()[15])


@pytest.mark.parametrize("cache", ["writeback", "writethrough"])
def test_what_must_be_on_the_disk_is_flushed_on_the_host(block_device: str, boot: Boot, cache: str) -> None:
    guest = boot(disks=[DiskConfig(block_device, cache=cache)])
    before = flushes_of_host(block_device)
    guest.check("dd if=/dev/urandom of=/dev/vdb bs=4k count=20 oflag=direct status=none")
    written = flushes_of_host(block_device)
    guest.check("for i in 1 2 3; do dd if=/dev/urandom of=/dev/vdb bs=4k count=1 conv=fsync status=none; done")
    synced = flushes_of_host(block_device)
    if cache == "writeback":
        assert written == before, "the guest has a cache, and has not flushed it"
        assert synced >= written + 3
    else:
        assert written >= before + 20, "each write is on the disk when it returns"
        assert synced >= written + 3
