"""The machine with PCI: what Linux finds, and that the data path is as good as without; and packed virtqueues on both
transports."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import complaints, running, show
from tests.guest.vmfixture import RUN_TIMEOUT, Guest
from vmm import DiskConfig, ShareConfig, VsockConfig
from vmm.machine.stats import collect

MIB = 1 << 20


@pytest.fixture(scope="module")
def made_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the guest shares."""
    return tmp_path_factory.mktemp("share")


@pytest.fixture(scope="module")
def made(
    guest_kernel: str, guest_disk: Path, made_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guest]:
    folder, share = tmp_path_factory.mktemp("pci"), made_folder
    disk = folder / "second.img"
    disk.touch()
    with disk.open("r+b") as file:
        file.truncate(32 * MIB)
    (share / "hello").write_text("from the host\n")
    with running(
        guest_kernel,
        guest_disk,
        folder,
        cpus=2,
        transport="pci",
        disks=[DiskConfig(str(disk), serial="second")],
        shares=[ShareConfig(str(share)), ShareConfig(str(share), "apart", isolation="process")],
        vsock=VsockConfig(uds=str(folder / "vm.sock")),
    ) as guest:
        yield guest


@pytest.fixture
def guest(request: pytest.FixtureRequest, made: Guest) -> Guest:
    return show(request, made)


def test_linux_finds_the_bus_by_acpi_and_has_nothing_to_complain_about(guest: Guest) -> None:
    assert complaints(guest) == []
    log = guest.check("dmesg")
    assert "PCI: ECAM [mem 0xe0000000-0xe00fffff] reserved as ACPI motherboard resource" in log
    assert "PCI host bridge to bus 0000:00" in log
    assert not any(word in log for word in ("can't claim", "no compatible bridge window", "ACPI Error", "ACPI BIOS"))


def test_every_device_is_there_with_a_vector_for_each_queue(guest: Guest) -> None:
    ids = guest.check("cat /sys/bus/pci/devices/*/device").split()
    assert ids == ["0x29c0", "0x1042", "0x1042", "0x105a", "0x105a", "0x1053", "0x1044"]
    lines = [line.split() for line in guest.check("grep virtio /proc/interrupts").splitlines()]
    names = [line[-1] for line in lines]
    for disk in ("virtio0", "virtio1"):
        assert [name for name in names if name.startswith(disk)] == [
            f"{disk}-{what}" for what in ("config", "req.0", "req.1")
        ]
    assert all("PCI-MSIX" in " ".join(line) for line in lines)
    assert guest.check("cat /sys/block/vdb/serial").strip() == "second"


def test_data_moves_without_an_exit_to_python(guest: Guest) -> None:
    guest.check(
        "dd if=/dev/urandom of=/tmp/x bs=1M count=4 2>/dev/null; dd if=/tmp/x of=/dev/vdb oflag=direct 2>/dev/null"
    )
    before = collect(guest.machine)["exits"]["by_reason"]["mmio"]
    digest = guest.check(
        "for i in 1 2 3; do dd if=/tmp/x of=/dev/vdb bs=64k oflag=direct,sync conv=notrunc; done 2>/dev/null;"
        "dd if=/dev/vdb bs=1M count=4 iflag=direct 2>/dev/null | md5sum; md5sum < /tmp/x"
    ).split()
    after = collect(guest.machine)["exits"]["by_reason"]["mmio"]
    assert digest[0] == digest[2]
    assert after == before, "neither a kick nor an interrupt left the kernel"


def test_shares_and_sockets_work(guest: Guest, made_folder: Path) -> None:
    for tag in ("share", "apart"):
        guest.check(f"mkdir -p /mnt/{tag} && mount -t virtiofs {tag} /mnt/{tag}")
        assert guest.check(f"cat /mnt/{tag}/hello") == "from the host\n"
        guest.check(f"echo from the guest > /mnt/{tag}/{tag}")
        assert (made_folder / tag).read_text() == "from the guest\n"
    with pytest.raises(ConnectionRefusedError):
        guest.machine.vsock.connect(7, timeout=RUN_TIMEOUT)


def test_the_second_queue_of_a_disk_works(guest: Guest) -> None:
    assert guest.check("ls /sys/block/vdb/mq").split() == ["0", "1"]
    for cpu in (0, 1):
        guest.check(f"taskset {1 << cpu:x} dd if=/dev/vdb of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null")
    rows = guest.check("grep virtio1-req /proc/interrupts").splitlines()
    assert all(sum(int(word) for word in row.split()[1:3]) for row in rows)


def test_a_kernel_that_uses_no_msi_gets_lines(boot: Boot) -> None:
    guest = boot(transport="pci", cmdline="pci=nomsi")
    rows = guest.check("grep virtio /proc/interrupts")
    assert "IO-APIC" in rows and "fasteoi" in rows
    guest.check("dd if=/dev/vda of=/dev/null bs=1M count=8 iflag=direct 2>/dev/null && sync")
    assert complaints(guest) == []


def test_a_driver_that_is_bound_again(boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "again.img"
    disk.write_bytes(b"content".ljust(MIB, b"\0"))
    guest = boot(transport="pci", disks=[disk])
    for _ in range(3):
        guest.check("echo 0000:00:02.0 > /sys/bus/pci/drivers/virtio-pci/unbind; test ! -e /dev/vdb")
        guest.check("echo 0000:00:02.0 > /sys/bus/pci/drivers/virtio-pci/bind")
        assert guest.check("dd if=/dev/vdb bs=7 count=1 2>/dev/null") == "content"
    guest.check("echo 1 > /sys/bus/pci/devices/0000:00:02.0/remove; test ! -e /dev/vdb")
    guest.check("echo 1 > /sys/bus/pci/rescan")
    assert guest.check("dd if=/dev/vdb bs=7 count=1 2>/dev/null") == "content"
    assert complaints(guest) == []


# -- packed virtqueues, on both transports -----------------------------------------------------------------------------

RING_PACKED = 34


class Packed:
    """A guest, the image of its second disk, and the directory that it shares."""

    def __init__(self, guest: Guest, image: Path, share: Path) -> None:
        self.guest, self.image, self.share = guest, image, share


# tests/hostile/test_packed.py and tests/unit/virtio have packed rings on MMIO
@pytest.fixture(scope="module", params=[pytest.param("mmio", marks=pytest.mark.long), "pci"])
def packed_machine(
    request: pytest.FixtureRequest, guest_kernel: str, guest_disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Packed]:
    folder = tmp_path_factory.mktemp("packed")
    image, share = folder / "second.img", folder / "share"
    share.mkdir()
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    with running(
        guest_kernel,
        guest_disk,
        folder,
        cpus=2,
        transport=request.param,
        virtqueues="packed",
        disks=[DiskConfig(str(image))],
        shares=[ShareConfig(str(share)), ShareConfig(str(share), "thread", isolation="thread")],
        vsock=VsockConfig(uds=str(folder / "vm.sock")),
    ) as guest:
        yield Packed(guest, image, share)


@pytest.fixture
def packed(request: pytest.FixtureRequest, packed_machine: Packed) -> Packed:
    show(request, packed_machine.guest)
    return packed_machine


def test_every_device_has_packed_queues(packed: Packed) -> None:
    assert complaints(packed.guest) == []
    features = packed.guest.check("cat /sys/bus/virtio/devices/*/features").split()
    assert len(features) == 6
    assert {each[RING_PACKED] for each in features} == {"1"}


@pytest.mark.parametrize("flags", ["", pytest.param("direct", marks=pytest.mark.long)])
def test_what_is_written_is_what_is_read(packed: Packed, flags: str) -> None:
    flag, out = (f"iflag={flags}", f"oflag={flags}") if flags else ("", "")
    done = packed.guest.check(f"""
        dd if=/dev/urandom of=/tmp/data bs=1M count=8 status=none
        for i in 1 2 3; do
            (dd if=/tmp/data of=/dev/vdb bs=64k seek=$((i * 128)) {out} conv=fsync,notrunc status=none; true) &
        done
        wait
        echo 3 >/proc/sys/vm/drop_caches
        md5sum </tmp/data
        for i in 1 2 3; do dd if=/dev/vdb bs=4k skip=$((i * 2048)) count=2048 {flag} status=none | md5sum; done
    """).split()
    assert done[::2] == done[:1] * 4
    assert hashlib.md5(packed.image.read_bytes()[8 * MIB : 16 * MIB]).hexdigest() == done[0]


@pytest.mark.parametrize("tag", ["share", "thread"])
def test_shares_with_packed_queues(packed: Packed, tag: str) -> None:
    (packed.share / f"from-host-{tag}").write_bytes(bytes(range(256)) * 4096)
    done = packed.guest.check(f"""
        mkdir -p /mnt && mount -t virtiofs {tag} /mnt && cd /mnt
        md5sum <from-host-{tag}
        for i in $(seq 100); do echo $i >many-$i; done
        ls | grep -c many
        cat many-* | md5sum
        cp from-host-{tag} from-guest-{tag}; rm many-*
        cd / && umount /mnt
    """).split()
    assert done[0] == hashlib.md5((packed.share / f"from-guest-{tag}").read_bytes()).hexdigest()
    assert done[2] == "100"


def test_pause_and_resume_under_load(packed: Packed) -> None:
    guest = packed.guest
    guest.check("(dd if=/tmp/data of=/dev/vdb bs=16k oflag=direct conv=notrunc status=none; echo $? >/tmp/done) & true")
    for _ in range(5):
        guest.machine.pause()
        guest.machine.resume()
    done = guest.check(
        "wait; cat /tmp/done; dd if=/dev/vdb bs=1M count=8 iflag=direct status=none | cmp - /tmp/data; echo $?"
    )
    assert done.split() == ["0", "0"]
    assert [attached.transport.failures for attached in guest.machine.attached] == [0] * 6


def test_a_reset_with_packed_queues(boot: Boot) -> None:
    """Queues are new ones after a reset of the machine."""
    guest = boot(virtqueues="packed")
    guest.check("echo before >/tmp/x")
    guest.machine.reset()
    guest.start_shell()
    guest.check("cat /sys/bus/virtio/devices/*/features && [ ! -e /tmp/x ]")
