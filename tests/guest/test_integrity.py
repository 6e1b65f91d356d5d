"""What went through the devices is what arrives: random operations on disks and shares beside a copy in memory, hashes
of what went over networks and sockets.

PYVMM_TEST_OPERATIONS says how many operations, PYVMM_TEST_BYTES how many bytes a connection moves.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import INSTALL_PROGRAMS, programs_disk
from tests.guest.vmfixture import Guest
from tests.netns import ip, own_network
from vmm import DiskConfig, NetConfig, ShareConfig, VsockConfig

OPERATIONS = int(os.environ.get("PYVMM_TEST_OPERATIONS", "600"))
BYTES = int(os.environ.get("PYVMM_TEST_BYTES", str(64 << 20)))
SIZE = 16 << 20
PATIENCE = 240.0 + OPERATIONS / 20
DISKS: tuple[dict[str, Any], ...] = ({}, {"direct": True}, {"cow": "overlay"})
UNUSUAL = ("none", "always")
needs_vhost = pytest.mark.skipif(not os.path.exists("/dev/vhost-net"), reason="no /dev/vhost-net here")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_in(guest: Guest, path: str) -> str:
    return guest.check(f"sha256sum <{path}", PATIENCE).split()[0]


def operate(guest: Guest, paths: list[str]) -> None:
    """On all of these at once, each with a seed of its own; what is not as it must be is told by the program."""
    start = "".join(
        f"random_io {seed} {OPERATIONS} {path} {SIZE} >/tmp/said{seed} 2>&1 & " for seed, path in enumerate(paths, 1)
    )
    said = guest.check(f"{start} wait; cat /tmp/said*", PATIENCE)
    assert said == f"random_io: {OPERATIONS} operations\n" * len(paths)


@pytest.mark.parametrize("transport", ["mmio", pytest.param("pci", marks=pytest.mark.long)])
def test_random_operations_on_disks(boot: Boot, tmp_path: Path, transport: str) -> None:
    """Three at once, with discard: as it is by default, past the host's cache, on an overlay."""
    images = [tmp_path / f"{number}.img" for number in range(len(DISKS))]
    for image in images:
        image.write_bytes(bytes(SIZE))
    configs = [DiskConfig(str(image), **options) for image, options in zip(images, DISKS, strict=True)]
    guest = boot(disks=[programs_disk(), *configs], transport=transport)
    guest.check(INSTALL_PROGRAMS)
    names = ["/dev/vdc", "/dev/vdd", "/dev/vde"]
    operate(guest, names)
    inside = [hash_in(guest, name) for name in names]
    for image, found, options in zip(images, inside, DISKS, strict=True):
        if "cow" in options:
            assert sha256(image) != found, "the image below an overlay stays as it is"
        else:
            assert sha256(image) == found


@pytest.mark.parametrize("cache", ["auto", *(pytest.param(name, marks=pytest.mark.long) for name in UNUSUAL)])
def test_random_operations_on_a_share(boot: Boot, tmp_path: Path, cache: str) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    guest = boot(disks=[programs_disk()], shares=[ShareConfig(str(folder), cache=cache)])
    guest.check(f"{INSTALL_PROGRAMS} && mount -t virtiofs share /mnt")
    operate(guest, ["/mnt/a", "/mnt/b"])
    assert [sha256(folder / name) for name in "ab"] == [hash_in(guest, f"/mnt/{name}") for name in "ab"]


# -- streams ---------------------------------------------------------------------------------------------------------


def send(sock: socket.socket, digest: Any) -> None:
    """So many bytes of which no piece is like another, and the end."""
    base = random.Random(1).randbytes((1 << 20) - 8)
    for number in range(BYTES >> 20):
        piece = number.to_bytes(8) + base
        digest.update(piece)
        sock.sendall(piece)
    sock.shutdown(socket.SHUT_WR)


def check_echo(sock: socket.socket) -> None:
    """What a program in the guest sends back is what it was sent."""
    sent, received, length = hashlib.sha256(), hashlib.sha256(), 0
    sock.settimeout(PATIENCE)
    sender = threading.Thread(target=send, args=(sock, sent))
    sender.start()
    while piece := sock.recv(1 << 18):
        received.update(piece)
        length += len(piece)
    sender.join()
    assert (length, received.hexdigest()) == (BYTES, sent.hexdigest())


@pytest.mark.long
@pytest.mark.parametrize("checksums", ["on", "off"])
@pytest.mark.parametrize("backend", ["worker", pytest.param("vhost", marks=needs_vhost)])
def test_what_goes_over_a_network(boot: Boot, backend: str, checksums: str) -> None:
    """With the driver's offloads, checksums and large frames, and without them."""
    words = "virtio_net.csum=0 virtio_net.gso=0" if checksums == "off" else ""
    with own_network():
        ip("tuntap add dev tap0 mode tap; addr add 10.0.7.1/24 dev tap0; link set tap0 up")
        guest = boot(nets=[NetConfig("tap", "tap0", backend=backend)], cmdline=words)
        guest.check("ip addr add 10.0.7.2/24 dev eth0 && ip link set eth0 up")
        guest.check("nc -l -p 5001 -e cat & while ! netstat -lnt | grep -q :5001; do sleep 0.05; done")
        with socket.create_connection(("10.0.7.2", 5001), PATIENCE) as sock:
            check_echo(sock)


@pytest.mark.long
@pytest.mark.parametrize("transport", ["mmio", "pci"])
def test_what_goes_over_a_socket(boot: Boot, tmp_path: Path, transport: str) -> None:
    guest = boot(disks=[programs_disk()], vsock=VsockConfig(3, str(tmp_path / "v.sock")), transport=transport)
    guest.check(INSTALL_PROGRAMS)
    guest.check("vsocktool serve stream 5000 echo >/tmp/said & until grep -q listening /tmp/said; do sleep 0.01; done")
    with guest.machine.vsock.connect(5000, timeout=PATIENCE) as sock:
        check_echo(sock)


# -- a host that is suspended ----------------------------------------------------------------------------------------


def suspend() -> None:
    """As far as a host comes that must not lose its devices: it tells drivers, KVM's among them, freezes all processes
    and all threads but this one for 5 seconds, and thaws them (pm_test, CONFIG_PM_DEBUG)."""
    power = Path("/sys/power")
    before = int((power / "suspend_stats" / "success").read_text())
    (power / "pm_test").write_text("freezer")
    (power / "state").write_text("freeze")
    assert int((power / "suspend_stats" / "success").read_text()) == before + 1


def clock_is_right(guest: Guest) -> bool:
    """Whether the guest's date is that of the host, of which it was told at its start."""
    before = time.time()
    inside = int(guest.check("date +%s"))
    return before - 2.5 < inside < time.time() + 2.5


@pytest.mark.long  # more than a minute, in which the whole lab stands still
@pytest.mark.skipif(os.environ.get("PYVMM_LAB") != "1", reason="this host is not ours to suspend: in the lab alone")
@pytest.mark.skipif(not os.access("/sys/power/pm_test", os.W_OK), reason="no CONFIG_PM_DEBUG here")
@pytest.mark.parametrize("isolation", ["process", pytest.param("thread", marks=pytest.mark.long)])
def test_a_host_that_is_suspended(boot: Boot, tmp_path: Path, isolation: str) -> None:
    """What was under way on disk, share, sockets and network goes on, and the guest's clock has not stood still."""
    folder, image = tmp_path / "shared", tmp_path / "image"
    folder.mkdir()
    image.write_bytes(bytes(SIZE))
    sockets = VsockConfig(3, str(tmp_path / "v.sock"))
    shares = [ShareConfig(str(folder))]
    with own_network():
        ip("tuntap add dev tap0 mode tap; addr add 10.0.7.1/24 dev tap0; link set tap0 up")
        nets = [NetConfig("tap", "tap0")]
        disks = [programs_disk(), DiskConfig(str(image))]
        guest = boot(disks=disks, shares=shares, vsock=sockets, nets=nets, isolation=isolation)
        guest.check(f"{INSTALL_PROGRAMS}; mount -t virtiofs share /mnt")
        guest.check("ip addr add 10.0.7.2/24 dev eth0 && ip link set eth0 up")
        guest.check("nc -l -p 5001 -e cat & while ! netstat -lnt | grep -q :5001; do sleep 0.05; done")
        guest.check("vsocktool serve stream 5000 echo >/tmp/v & until grep -q listening /tmp/v; do sleep 0.01; done")
        operations = "".join(
            f"random_io {seed} {OPERATIONS} {path} {SIZE} >/tmp/said{seed} 2>&1 & "
            for seed, path in enumerate(("/dev/vdc", "/mnt/a"), 1)
        )
        guest.check(f"({operations} wait; echo >/tmp/done) >/dev/null 2>&1 &")
        with (
            guest.machine.vsock.connect(5000, timeout=PATIENCE) as stream,
            socket.create_connection(("10.0.7.2", 5001), PATIENCE) as connection,
            ThreadPoolExecutor(2) as pool,
        ):
            moving = [pool.submit(check_echo, sock) for sock in (stream, connection)]
            assert clock_is_right(guest)
            suspend()
            assert clock_is_right(guest)
            for each in moving:
                each.result()
        said = guest.check("while ! test -e /tmp/done; do sleep 0.1; done; cat /tmp/said*", PATIENCE)
        assert said == f"random_io: {OPERATIONS} operations\n" * 2
        assert [sha256(path) for path in (image, folder / "a")] == [
            hash_in(guest, path) for path in ("/dev/vdc", "/mnt/a")
        ]
        assert guest.power_off().kind == "poweroff"
