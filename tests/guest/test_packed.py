"""Packed virtqueues as Linux drives them, on both transports."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import complaints, running, show
from tests.guest.vmfixture import Guest
from vmm import DiskConfig, ShareConfig, VsockConfig

MIB = 1 << 20
RING_PACKED = 34


class Packed:
    """A guest, the image of its second disk, and the directory that it shares."""

    def __init__(self, guest: Guest, image: Path, share: Path) -> None:
        self.guest, self.image, self.share = guest, image, share


@pytest.fixture(scope="module", params=["mmio", "pci"])
def made(
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
def packed(request: pytest.FixtureRequest, made: Packed) -> Packed:
    show(request, made.guest)
    return made


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
def test_shares(packed: Packed, tag: str) -> None:
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


def test_reset(boot: Boot) -> None:
    """Queues are new ones after a reset of the machine."""
    guest = boot(virtqueues="packed")
    guest.check("echo before >/tmp/x")
    guest.machine.reset()
    guest.start_shell()
    guest.check("cat /sys/bus/virtio/devices/*/features && [ ! -e /tmp/x ]")
