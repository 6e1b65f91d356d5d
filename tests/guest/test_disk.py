"""virtio-blk as Linux drives it: one guest with a disk for each test, their images on the host."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guest.conftest import Boot
from tests.guest.disk_program import DISKS
from tests.guest.shared import INSTALL_PROGRAMS, complaints, loop_device, programs_disk, running, show, tool
from tests.guest.vmfixture import Guest
from tools import guest as recipes
from vmm import DiskConfig
from vmm.machine.stats import collect
from vmm.virtio.blk.device import Blk

MIB = 1 << 20
PATIENCE = 240.0
SIZE = 32 * MIB


class Disks:
    """A guest and its disks by name: the image on the host, the device in the guest, the device in the VMM."""

    def __init__(self, guest: Guest, folder: Path, names: list[str]) -> None:
        self.guest = guest
        self._folder = folder
        self._names = names

    def image(self, name: str) -> Path:
        return self._folder / f"{name}.img"

    def letter(self, name: str) -> str:
        """``vda`` is the root, ``vdb`` the programs."""
        return "vd" + "cdefghijklmn"[self._names.index(name)]

    def device(self, name: str) -> Any:
        return self.guest.machine.attached[self.index(name)].device

    def index(self, name: str) -> int:
        return 2 + self._names.index(name)

    def md5(self, name: str) -> str:
        """Of the image, as the host sees it."""
        return hashlib.md5(self.image(name).read_bytes()).hexdigest()

    def allocated(self, name: str) -> int:
        """Bytes that the image takes on the host."""
        return self.image(name).stat().st_blocks * 512


@pytest.fixture(scope="module")
def made(guest_kernel: str, guest_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    folder = tmp_path_factory.mktemp("disks")
    options: dict[str, dict[str, Any]] = {
        "plain": {"serial": "12345678901234567890"},
        "read_only": {"read_only": True, "serial": "short"},
        "one_queue": {"queues": 1},
        "through": {"cache": "writethrough"},
        "grows": {},
        "files": {},
        "busy": {},
    }
    engines: dict[str, bool | None] = {"automatic": None, "uring": True, "sync": False}
    names = [*options, *engines]
    for name in names:
        image = folder / f"{name}.img"
        image.touch()
        os.truncate(image, SIZE)
    (folder / "read_only.img").write_bytes(random.Random(1).randbytes(MIB))
    disks = [DiskConfig(str(folder / f"{name}.img"), **values) for name, values in options.items()]
    devices = tuple(
        Blk(DiskConfig(str(folder / f"{name}.img")), cpus=2, io_uring=engine) for name, engine in engines.items()
    )
    with running(guest_kernel, guest_disk, folder, cpus=2, disks=[programs_disk(), *disks], devices=devices) as guest:
        guest.check(INSTALL_PROGRAMS)
        yield Disks(guest, folder, names)


@pytest.fixture
def disks(request: pytest.FixtureRequest, made: Disks) -> Disks:
    show(request, made.guest)
    return made


@pytest.mark.parametrize("how", ["", "direct"])
@pytest.mark.parametrize("name", ["automatic", "uring", "sync", "one_queue", "through"])
def test_what_is_written_is_what_is_read(disks: Disks, name: str, how: str) -> None:
    device = f"/dev/{disks.letter(name)}"
    flag, out = (f"iflag={how}", f"oflag={how}") if how else ("", "")
    done = disks.guest.check(f"""
        dd if=/dev/urandom of=/tmp/data bs=1M count=8 status=none
        dd if=/tmp/data of={device} bs=1M seek=3 {out} conv=fsync,notrunc status=none
        echo 3 >/proc/sys/vm/drop_caches
        dd if={device} bs=64k skip=48 count=128 {flag} status=none | md5sum
        md5sum </tmp/data
    """).split()
    assert done[0] == done[2]
    assert hashlib.md5(disks.image(name).read_bytes()[3 * MIB : 11 * MIB]).hexdigest() == done[0]


def test_both_engines_were_there(disks: Disks) -> None:
    assert disks.device("sync").stats()["uring"] == 0
    if not disks.device("uring").stats()["uring"]:
        pytest.skip("this host has no io_uring")


def test_file_system(disks: Disks) -> None:
    device = f"/dev/{disks.letter('files')}"
    disks.guest.check(f"""
        mke2fs {device} >/dev/null
        mkdir -p /mnt && mount -t ext4 {device} /mnt
        cp -r /bin /etc /mnt && cd /mnt
        mkdir many && for i in $(seq 300); do echo $i >many/$i; done
        rm -r many
        cd / && umount /mnt
    """)
    tool("e2fsck", "-fn", str(disks.image("files")))
    disks.guest.check(f"mount -t ext4 {device} /mnt && diff -r /etc /mnt/etc && ! ls /mnt/many && umount /mnt")


def test_trim_gives_space_back_to_the_host(disks: Disks) -> None:
    device = f"/dev/{disks.letter('files')}"
    disks.guest.check(f"""
        mke2fs {device} >/dev/null
        mkdir -p /mnt && mount -t ext4 {device} /mnt
        dd if=/dev/urandom of=/mnt/data bs=1M count=16 conv=fsync status=none
    """)
    full = disks.allocated("files")
    assert full > 16 * MIB
    disks.guest.check("rm /mnt/data && sync && fstrim /mnt && umount /mnt")
    assert disks.allocated("files") < full - 15 * MIB
    tool("e2fsck", "-fn", str(disks.image("files")))


def test_zeros_are_written_where_they_belong(disks: Disks) -> None:
    device = f"/dev/{disks.letter('plain')}"
    disks.guest.check(f"dd if=/dev/urandom of={device} bs=1M count=8 conv=fsync status=none")
    before = disks.image("plain").read_bytes()
    requests = disks.device("plain").stats()["write_zeroes"]
    disks.guest.check(f"zeroout zero {device} 1050624 2097152")
    expected = before[:1050624] + bytes(2097152) + before[1050624 + 2097152 :]
    assert disks.image("plain").read_bytes() == expected
    assert disks.device("plain").stats()["write_zeroes"] > requests
    disks.guest.check("echo 3 >/proc/sys/vm/drop_caches")
    assert disks.guest.check(f"md5sum <{device}").split()[0] == hashlib.md5(expected).hexdigest()


def test_discarded_blocks_read_as_zeros(disks: Disks) -> None:
    device = f"/dev/{disks.letter('plain')}"
    disks.guest.check(f"""
        dd if=/dev/urandom of={device} bs=1M seek=16 count=8 conv=fsync status=none
        zeroout discard {device} 17825792 4194304
    """)
    data = disks.image("plain").read_bytes()
    assert data[17825792 : 17825792 + 4194304] == bytes(4194304)
    assert data[17825792 - 4096 : 17825792] != bytes(4096) != data[17825792 + 4194304 :][:4096]


def test_serial_numbers(disks: Disks) -> None:
    for name, serial in (("plain", "12345678901234567890"), ("read_only", "short"), ("grows", "")):
        assert disks.guest.check(f"cat /sys/block/{disks.letter(name)}/serial").strip() == serial


def test_read_only_disk_refuses_writes(disks: Disks) -> None:
    letter, before = disks.letter("read_only"), disks.md5("read_only")
    assert disks.guest.check(f"cat /sys/block/{letter}/ro; blockdev --getro /dev/{letter}").split() == ["1", "1"]
    for command in (
        f"dd if=/dev/zero of=/dev/{letter} bs=4k count=1 conv=fsync",
        f"dd if=/dev/zero of=/dev/{letter} bs=4k count=1 oflag=direct",
        f"zeroout zero /dev/{letter}",
        f"zeroout discard /dev/{letter}",
        f"mke2fs /dev/{letter}",
    ):
        assert disks.guest.run(command)[0] != 0, command
    assert disks.md5("read_only") == before
    assert disks.guest.check(f"md5sum </dev/{letter}").split()[0] == before


def test_queues_follow_the_cpus_and_the_option(disks: Disks) -> None:
    for name, queues in (("plain", ["0", "1"]), ("one_queue", ["0"]), ("uring", ["0", "1"])):
        assert disks.guest.check(f"ls /sys/block/{disks.letter(name)}/mq").split() == queues


def test_both_queues_are_used(disks: Disks) -> None:
    device = f"/dev/{disks.letter('automatic')}"
    before = [stats["chains"] for stats in queue_stats(disks.device("automatic"))]
    for cpu in (0, 1):
        disks.guest.check(f"taskset -c {cpu} dd if={device} of=/dev/null bs=4k count=50 iflag=direct status=none")
        after = [stats["chains"] for stats in queue_stats(disks.device("automatic"))]
        assert after[cpu] >= before[cpu] + 50
        before = after


def queue_stats(device: Any) -> list[dict[str, int]]:
    """What the workers of a disk have counted, by queue."""
    return [device._workers.stats_of(index) for index in range(len(device._workers))]


def test_cache_mode_is_the_guests_to_change(disks: Disks) -> None:
    through, plain = (f"/sys/block/{disks.letter(name)}/cache_type" for name in ("through", "plain"))
    assert disks.guest.check(f"cat {through} {plain}") == "write through\nwrite back\n"
    disks.guest.check(f"echo 'write through' >{plain}")
    assert disks.device("plain").save().payload["writeback"] is False
    flushes = disks.device("plain").stats()["flushes"]
    disks.guest.check(f"dd if=/dev/urandom of=/dev/{disks.letter('plain')} bs=1M count=1 conv=fsync status=none")
    assert disks.device("plain").stats()["flushes"] == flushes, "there is nothing to flush"
    disks.guest.check(f"echo 'write back' >{plain}")
    assert disks.device("plain").save().payload["writeback"] is True
    assert disks.guest.check(f"cat {plain}") == "write back\n"
    disks.guest.check(f"dd if=/dev/urandom of=/dev/{disks.letter('plain')} bs=1M count=1 conv=fsync status=none")
    assert disks.device("plain").stats()["flushes"] > flushes


def wait_for(guest: Guest, command: str, output: str) -> None:
    """Run *command* in the guest until it prints *output*."""
    deadline = time.monotonic() + PATIENCE
    while (seen := guest.check(command).strip()) != output:
        assert time.monotonic() < deadline, f"{command}: {seen}, not {output}"


def test_resize_while_running(disks: Disks) -> None:
    letter, image = disks.letter("grows"), disks.image("grows")
    mount, unmount = f"mkdir -p /mnt && mount -t ext4 /dev/{letter} /mnt", "umount /mnt"
    disks.guest.check(f"mke2fs /dev/{letter} >/dev/null; {mount}; echo still here >/mnt/file")
    for size in (SIZE + 5 * MIB, 2 * SIZE):
        os.truncate(image, size)
        disks.guest.machine.resize_disk(disks.index("grows"))
        wait_for(disks.guest, f"cat /sys/block/{letter}/size", str(size // 512))
    disks.guest.check(f"cat /mnt/file && {unmount}")
    last = 2 * SIZE // 4096 - 1
    disks.guest.check(f"echo the end | dd of=/dev/{letter} bs=4k seek={last} conv=fsync,notrunc status=none")
    assert image.read_bytes()[-4096:].startswith(b"the end\n")

    os.truncate(image, SIZE)
    disks.guest.machine.resize_disk(disks.index("grows"))
    wait_for(disks.guest, f"cat /sys/block/{letter}/size", str(SIZE // 512))
    assert disks.guest.check(f"{mount}; cat /mnt/file; {unmount}") == "still here\n"


def test_no_exit_of_heavy_io_is_answered_by_python(disks: Disks) -> None:
    device = f"/dev/{disks.letter('busy')}"
    disks.guest.check(f"""
        (while :; do dd if={device} of=/dev/null bs=4k count=2000 iflag=direct; done) >/dev/null 2>&1 &
        reader=$!
        (while :; do dd if=/dev/zero of={device} bs=64k count=100 oflag=direct conv=notrunc; done) >/dev/null 2>&1 &
        writer=$!
    """)

    def counts() -> dict[str, Any]:
        stats = collect(disks.guest.machine)
        return {"exits": stats["exits"], "disk": stats["devices"][disks.index("busy")]}

    first = counts()
    deadline = time.monotonic() + PATIENCE
    while (second := counts())["disk"]["chains"] < first["disk"]["chains"] + 2000:
        assert time.monotonic() < deadline, second
        time.sleep(0.05)
    assert second["exits"]["python"] == first["exits"]["python"]
    for what in ("kicks", "irqs", "reads", "writes", "read_bytes", "write_bytes"):
        assert second["disk"][what] > first["disk"][what], what
    disks.guest.check("kill $reader $writer")


def test_linux_has_nothing_to_complain_about(disks: Disks) -> None:
    # Of what the tests above do on purpose it says this much
    wanted = (
        "read-only",
        "critical target error",
        "Buffer I/O error",
        "I/O error, dev",
        "supports timestamps until 2038",
    )
    assert [line for line in complaints(disks.guest) if not any(text in line for text in wanted)] == []


def test_data_outlives_the_machine(boot: Boot, tmp_path: Path) -> None:
    image = tmp_path / "data.img"
    image.touch()
    os.truncate(image, SIZE)
    first = boot(disks=[image])
    sums = first.check("""
        mke2fs /dev/vdb >/dev/null && mkdir -p /mnt && mount -t ext4 /dev/vdb /mnt && cd /mnt
        for i in 1 2 3 4; do dd if=/dev/urandom of=$i bs=1000k count=$i status=none; done
        md5sum [1-4] /bin/busybox; cp -r /bin bin; cd /; umount /mnt
    """)
    assert first.power_off().kind == "poweroff"
    first.close()
    tool("e2fsck", "-fn", str(image))
    second = boot(disks=[image])
    assert second.check("mount -t ext4 /dev/vdb /mnt && cd /mnt && md5sum [1-4] bin/busybox") == sums.replace(
        "/bin/b", "bin/b"
    )


# -- a flush that returned is on the disk: the VMM is killed in the middle, and all that the guest was told is there


ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("disk_program.py")
FLUSHED = 64 << 20
RECORD = 4096  # and the rest of what programs/records.c says
ENOUGH = 200


def acknowledged(console: bytes) -> dict[str, int]:
    """The last number that the guest has said of each disk. Only whole lines count."""
    lines = console.replace(b"\r", b"").rpartition(b"\n")[0].decode(errors="replace")
    found: dict[str, int] = {}
    for letter, number in re.findall(r"^([c-f])(\d+)$", lines, re.MULTILINE):
        assert int(number) == found.get(letter, 0) + 1, f"{letter}{number}"
        found[letter] = int(number)
    return found


def test_every_acknowledged_record_is_in_the_image(guest_kernel: str, fresh_disk: Path, tmp_path: Path) -> None:
    for name in DISKS:
        (tmp_path / f"{name}.img").touch()
        os.truncate(tmp_path / f"{name}.img", FLUSHED)
    arguments = [guest_kernel, str(fresh_disk), recipes.programs(), str(tmp_path)]
    errors = tmp_path / "errors"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    console = b""
    deadline = time.monotonic() + PATIENCE
    try:
        # All of them are in the middle of it when the process is killed
        while not all(acknowledged(console).get(letter, 0) >= ENOUGH for letter in DISKS.values()):
            ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
            data = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            assert data, f"it ended or hangs\n{console.decode(errors='replace')}\n{errors.read_text()}"
            console += data
    finally:
        process.send_signal(signal.SIGKILL)
        console += process.stdout.read()
        process.wait()
        process.stdout.close()
    assert process.returncode == -signal.SIGKILL

    told = acknowledged(console)
    for name, letter in DISKS.items():
        image = (tmp_path / f"{name}.img").read_bytes()
        for number in range(1, told[letter] + 1):
            record = b"%0*d" % (RECORD, number)
            assert image[number * RECORD : (number + 1) * RECORD] == record, (
                f"{name}: record {number} of {told[letter]}"
            )
    engines = dict(re.findall(r"^(\S+) uring=(\d)$", errors.read_text(), re.MULTILINE))
    assert {name: value for name, value in engines.items() if name.startswith("sync")} == {
        "sync-writeback": "0",
        "sync-writethrough": "0",
    }


# -- disks that are something special on the host: a block device, a file on a full file system. These need root


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount and make loop devices")


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
    with loop_device(image) as path:
        yield path


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
