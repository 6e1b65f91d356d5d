"""Debian 13 as it is, with its own kernel and initrd, on PCI.  Its boot takes a minute or more in the lab."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.filesystems import sparse_copy
from tests.guest.shared import complaints, show
from tests.guest.vmfixture import RUN_TIMEOUT, SERVE, Guest, boot_guest, showing_console
from tools import guest as recipes
from vmm import DiskConfig

pytestmark = pytest.mark.distribution
CPUS = 2
BOOT_TIMEOUT = 600.0
PROMPT = r"root@debian:~# "
EXPECTED = (
    # Of the host's CPU, which has what the driver looks for but not the tables of a machine with frequencies
    "amd_pstate: ",
)


def made() -> Path:
    """The Debian disk; its kernel and initrd are beside it."""
    image = os.environ.get("PYVMM_GUEST_DEBIAN")
    if not image:
        pytest.skip("the Debian disk is made by `make test` or `make test-guest`, run as root")
    return Path(image)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    image, folder = made(), tmp_path_factory.mktemp("debian")
    for name in ("vmlinuz", "initrd.img"):
        (folder / name).write_bytes((image.parent / name).read_bytes())
    disk = sparse_copy(image, folder / "root.ext4")
    guest = boot_guest(
        str(folder / "vmlinuz"),
        rootfs=disk,
        initrd=str(folder / "initrd.img"),
        cpus=CPUS,
        memory="768M",
        transport="pci",
        cmdline="systemd.show_status=0 console=ttyS0",
    )
    try:
        with showing_console(guest):
            guest.expect("debian login: ", BOOT_TIMEOUT)
            guest.type("root\n")
            guest.expect(PROMPT)
            guest.type("TERM=dumb bash --norc --noprofile --noediting\n")
            guest.expect(r"bash-[\d.]+# ")
            guest.type(SERVE)
            guest.check("true")
        yield guest
    finally:
        guest.close()


@pytest.mark.parametrize("entry", [pytest.param("linux64", marks=pytest.mark.long), "pvh"])
def test_its_kernel_by_itself(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """The kernel unpacks itself; or it was unpacked by us, and is entered by its PVH note."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    initrd = recipes.make("rootfs.py", "--kind", "initrd")
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes((made().parent / "vmlinuz").read_bytes())
    os.utime(kernel, (1, 1))
    time.sleep(0.1)  # a file that has just been made is not kept unpacked
    guest = boot_guest(str(kernel), initrd=initrd, memory="512M", entry=entry, transport="pci")
    try:
        show(request, guest).start_shell(BOOT_TIMEOUT)
        assert "-cloud-amd64" in guest.check("uname -r")
        assert [line for line in complaints(guest) if not any(text in line for text in EXPECTED)] == []
        assert guest.power_off().kind == "poweroff"
    finally:
        guest.close()


@pytest.fixture
def guest(request: pytest.FixtureRequest, debian: Guest) -> Guest:
    return show(request, debian)


@pytest.mark.long  # two minutes in the lab; test_its_kernel_by_itself boots the same image
def test_systemd_says_running(guest: Guest) -> None:
    status, state = guest.run("systemctl is-system-running --wait", 300)
    failed = guest.check("systemctl --failed --no-pager --plain --no-legend")
    assert (status, state.strip(), failed) == (0, "running", "")


def test_it_is_debians_own_kernel_on_its_own_disk(guest: Guest) -> None:
    assert "-cloud-amd64" in guest.check("uname -r")
    assert 'VERSION_ID="13"' in guest.check("cat /etc/os-release")
    assert guest.check("findmnt -no SOURCE,FSTYPE /").split() == ["/dev/vda", "ext4"]
    assert guest.check("readlink -f /sys/block/vda").startswith("/sys/devices/pci0000:00/0000:00:01.0/")


def test_the_kernel_has_nothing_to_complain_about(guest: Guest) -> None:
    assert [line for line in complaints(guest) if not any(text in line for text in EXPECTED)] == []
    log = guest.check("dmesg")
    bad = ("ACPI Error", "ACPI Warning", "ACPI BIOS Error", "Firmware Bug", "FW_BUG", "not reserved in")
    assert [line for line in log.splitlines() if any(text in line for text in bad)] == []
    assert "PCI: ECAM [mem 0xe0000000-0xe00fffff]" in log


def test_every_cpu_and_interrupt_is_where_it_should(guest: Guest) -> None:
    assert guest.check("nproc").strip() == str(CPUS)
    rows = [line.split() for line in guest.check("grep virtio0- /proc/interrupts").splitlines()]
    assert [row[-1] for row in rows] == ["virtio0-config", *(f"virtio0-req.{index}" for index in range(CPUS))]
    assert all(any("PCI-MSIX" in word for word in row) for row in rows)


@pytest.mark.long  # a minute; test_pci.py and test_immediate.py plug disks
@pytest.mark.long  # a minute; test_immediate.py has disks that come
def test_a_disk_comes_and_goes(guest: Guest, tmp_path: Path) -> None:
    image = tmp_path / "extra.img"
    image.write_bytes(b"hello".ljust(1 << 20, b"\0"))
    for turn in range(20):
        attached = guest.machine.plug(DiskConfig(str(image), serial="extra"))
        used = guest.check(
            "until [ -b /dev/vdb ]; do :; done; cat /sys/block/vdb/serial; echo; head -c 5 /dev/vdb; "
            f"printf turn{turn:02} | dd of=/dev/vdb seek=1 oflag=direct conv=sync 2>/dev/null",
            120,
        )
        assert used.split() == ["extra", "hello"]
        assert guest.machine.unplug(attached, RUN_TIMEOUT)
        assert image.read_bytes()[512:518] == b"turn%02d" % turn
        guest.check("while [ -e /dev/vdb ]; do :; done")
    assert [line for line in complaints(guest) if not any(text in line for text in EXPECTED)] == []


def test_files_are_kept_and_the_machine_powers_off(guest: Guest) -> None:
    guest.check("dd if=/dev/urandom of=/root/x bs=1M count=8 2>/dev/null; sync; echo 3 > /proc/sys/vm/drop_caches")
    one, two = guest.check("md5sum < /root/x; md5sum < /root/x").split()[::2]
    assert one == two
    assert guest.power_off().kind == "poweroff"
