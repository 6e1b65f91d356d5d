"""The library with Linux in it: the examples run as they are, guests side by side, a device that fails, and pause,
resume, reset and the power button with its drivers at work."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import INSTALL_PROGRAMS, LOAD, ONLINE, complaints, programs_disk
from tests.guest.vmfixture import BOOT_TIMEOUT, PROMPT, RUN_TIMEOUT, Guest, GuestEnded
from vmm import ConfigError, DiskConfig, Queue, ShareConfig, VirtioDevice, VsockConfig

ROOT = Path(__file__).parents[2]


def example(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of examples/ to its end."""
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_minimal_example(guest_kernel: str, fresh_disk: Path) -> None:
    done = example("minimal.py", guest_kernel, str(fresh_disk), "pyvmm.quiet pyvmm.run=nproc")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["pyvmm-init: hello", "2"]
    assert done.stdout.splitlines()[-1].startswith("the machine ended: poweroff")


def test_custom_device_example(guest_kernel: str, fresh_disk: Path) -> None:
    command = 'pyvmm.quiet pyvmm.run="cat /sys/class/misc/hw_random/rng_current; head -c 36 /dev/hwrng"'
    done = example("custom_device.py", guest_kernel, str(fresh_disk), command)
    assert done.returncode == 0, done.stderr
    assert "virtio_rng.0\n" in done.stdout
    assert done.stdout.count("hello guest\n") >= 2, "three times, less what the kernel took for itself"
    assert "the machine ended: poweroff" in done.stdout.splitlines()[-1]


class Broken(VirtioDevice):
    """An entropy device with a bug."""

    device_id = 4
    queue_sizes = (8,)
    name = "broken"

    def process(self, queue: Queue) -> None:
        raise ZeroDivisionError("a bug of the device")


def test_a_bug_in_a_device_stops_the_machine_loudly(boot: Boot) -> None:
    guest = boot(devices=(Broken(),), shell=False)
    with pytest.raises(ZeroDivisionError, match="a bug of the device") as caught:
        guest.wait(BOOT_TIMEOUT)
    assert "process" in [entry.name for entry in caught.traceback]


def test_two_guests_at_once(boot: Boot, guest_disk: Path) -> None:
    shared = DiskConfig(str(guest_disk), read_only=True)
    first, second = boot(disks=[shared], cpus=2), boot(disks=[shared], memory="128M")
    first.check("echo first >/root/name"), second.check("echo second >/root/name")
    assert first.check("nproc; cat /root/name") == "2\nfirst\n"
    assert second.check("nproc; cat /root/name") == "1\nsecond\n"
    sums = [guest.check("head -c 4194304 /dev/vdb | md5sum") for guest in (first, second)]
    assert sums[0] == sums[1]
    assert first.power_off().kind == "poweroff"
    assert second.check("cat /root/name") == "second\n"


def test_a_machine_in_a_process_of_its_own(boot: Boot, tmp_path: Path) -> None:
    """From the jail its guest has a disk, a directory and sockets, both ways; and gets a disk later."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "here").write_text("of the host\n")
    guest = boot(
        isolation="process",
        transport="pci",
        disks=[programs_disk()],
        shares=[ShareConfig(str(shared))],
        vsock=VsockConfig(3, str(tmp_path / "v.sock")),
    )
    machine: Any = guest.machine
    assert {"files", "capabilities", "landlock", "seccomp"} <= {*machine.walls}
    assert os.listdir(f"/proc/{machine.pid}/root") == []
    guest.check(f"{INSTALL_PROGRAMS}; mount -t virtiofs share /mnt")
    assert guest.check("cat /mnt/here; echo of the guest >/mnt/there; sync") == "of the host\n"
    assert (shared / "there").read_text() == "of the guest\n"
    with machine.vsock.listen(6000) as listener:
        listener.settimeout(BOOT_TIMEOUT)
        guest.check("(echo from the guest | vsocktool cat stream 2 6000 >/dev/null 2>&1) &")
        with listener.accept()[0] as program:
            assert program.recv(100) == b"from the guest\n"
    guest.check("vsocktool serve stream 5000 echo >/tmp/serve 2>&1 & while ! grep -q listening /tmp/serve; do :; done")
    machine.pause()
    machine.resume()
    with machine.vsock.connect(5000, timeout=BOOT_TIMEOUT) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
    image = tmp_path / "late.img"
    image.write_bytes(b"late".ljust(64 << 20, b"\0"))
    files = len(os.listdir(f"/proc/{machine.pid}/fd"))
    late = machine.plug(DiskConfig(str(image), serial="late"))
    # This kernel has no driver for ACPI's events: it looks when it is told to, and never lets go
    guest.check("echo 1 >/sys/bus/pci/rescan; test $(cat /sys/block/vdc/serial) = late")
    assert guest.check("head -c 4 /dev/vdc") == "late"
    guest.check("printf more | dd of=/dev/vdc bs=1M seek=63 conv=notrunc,fsync")
    with image.open("rb") as written:
        written.seek(63 << 20)
        assert written.read(4) == b"more"
    os.truncate(image, 96 << 20)
    machine.resize_disk(2)
    guest.check("while test $(cat /sys/block/vdc/size) != 196608; do :; done")
    guest.check("printf last | dd of=/dev/vdc bs=1M seek=95 conv=notrunc,fsync")
    assert image.read_bytes()[95 << 20 :].startswith(b"last")
    os.truncate(image, 64 << 20)
    machine.resize_disk(2)
    guest.check("while test $(cat /sys/block/vdc/size) != 131072; do :; done")
    assert not machine.unplug(late, timeout=0.5)
    assert guest.check("tail -c 1048576 /dev/vdc | head -c 4") == "more"
    guest.check("echo 1 >$(readlink -f /sys/block/vdc | sed 's,/virtio[0-9].*,,')/remove; test ! -e /dev/vdc")
    assert machine.unplug(late, timeout=0, force=True)
    assert len(os.listdir(f"/proc/{machine.pid}/fd")) <= files + 1, "and one of an answer that is just read"
    other = tmp_path / "other"
    other.mkdir()
    (other / "here").write_text("late\n")
    share = machine.plug(ShareConfig(str(other), "other"))
    guest.check("echo 1 >/sys/bus/pci/rescan; mkdir /tmp/other; mount -t virtiofs other /tmp/other")
    assert guest.check("cat /tmp/other/here; echo of the guest >/tmp/other/there") == "late\n"
    assert (other / "there").read_text() == "of the guest\n"
    machine.pause()
    machine.resume()
    assert guest.check("cat /tmp/other/there") == "of the guest\n"
    guest.check("umount /tmp/other")
    find = "for d in /sys/fs/virtiofs/*; do ! grep -qx other $d/tag || readlink -f $d/device/..; done"
    guest.check(f"echo 1 >$({find})/remove")
    assert machine.unplug(share, timeout=0, force=True)
    machine.snapshot(str(tmp_path / "warm"))
    assert guest.check("cat /mnt/there") == "of the guest\n"
    assert guest.power_off().kind == "poweroff"


# -- the guest fixture itself: what a test can rely on when it talks to a guest --------------------------------------


def test_commands_give_their_status_and_output(vm: Guest) -> None:
    assert vm.run("echo one; echo two >&2; (exit 3)") == (3, "one\ntwo\n")
    assert vm.run("false") == (1, "")
    assert vm.run("printf no-newline; true")[1].startswith("no-newline")


def test_several_lines_and_long_ones_arrive_whole(vm: Guest) -> None:
    assert vm.check("for x in a b; do\n  echo $x\ndone") == "a\nb\n"
    word = "".join(f"{n:05}" for n in range(2000))
    assert vm.check(f"printf %s {word} | md5sum").split()[0] == hashlib.md5(word.encode()).hexdigest()


def test_power_off_ends_the_run(vm: Guest) -> None:
    assert vm.power_off().kind == "poweroff"


def test_a_guest_that_ends_early_fails_the_test_that_waits_for_it(vm: Guest) -> None:
    with pytest.raises(GuestEnded):
        vm.run("poweroff; sleep 60")


def test_every_guest_has_a_disk_of_its_own(boot: Boot) -> None:
    first = boot()
    first.check("echo mark >/root/mark; sync")
    first.power_off()
    assert boot().run("test -e /root/mark")[0] == 1


# -- a machine's life ------------------------------------------------------------------------------------------------

WORK = """
cd /root; for i in 1 2 3 4; do
    dd if=/dev/urandom of=file$i bs=64k count=32 2>/dev/null; md5sum file$i | cut -c -32 >sum$i; sync
    echo 3 >/proc/sys/vm/drop_caches
    [ $(md5sum file$i | cut -c -32) = $(cat sum$i) ] || echo wrong $i
done; echo done
"""


# The usual two have both numbers of CPUs and both transports
@pytest.mark.parametrize(
    ("cpus", "transport"), [(1, "mmio"), pytest.param(2, "mmio", marks=pytest.mark.long), (2, "pci")]
)
def test_pauses_while_the_guest_writes_and_reads_its_disk(boot: Boot, cpus: int, transport: str) -> None:
    guest = boot(cpus=cpus, transport=transport)
    machine = guest.machine
    guest.type(f"77\n{base64.encodebytes(WORK.encode()).decode()}.\n")
    pauses = 0
    deadline = time.monotonic() + RUN_TIMEOUT
    while not re.search(r"~end-77 0\n", guest.console):
        machine.pause()
        before = machine.memory.read(0x100_0000, 0x40_0000)
        time.sleep(0.02)
        assert machine.memory.read(0x100_0000, 0x40_0000) == before
        machine.resume()
        time.sleep(0.03)
        guest.drain()
        pauses += 1
        assert time.monotonic() < deadline, "it does not get on"
    assert "wrong" not in guest.console
    assert pauses > 3
    assert guest.check("dmesg | grep -ciE 'soft lockup|rcu.*stall|hung' || true") == "0\n"
    assert guest.power_off().kind == "poweroff"


# The transport has no part in it
@pytest.mark.parametrize("transport", ["mmio", pytest.param("pci", marks=pytest.mark.long)])
def test_a_guest_gets_vcpus_and_gives_them_back(boot: Boot, transport: str) -> None:
    guest = boot(cpus=1, max_cpus=3, transport=transport)
    machine = guest.machine
    assert guest.check("nproc; cat /sys/devices/system/cpu/present") == "1\n0-2\n"
    machine.resize_cpus(3)
    assert guest.check(f"{ONLINE.format(1, 1)}; {ONLINE.format(2, 1)}; nproc") == "3\n"
    for cpu in (1, 2):
        guest.check(LOAD.format(cpu, 1 << cpu))
    with pytest.raises(ConfigError, match="the guest uses vCPU 1"):
        machine.resize_cpus(1)
    guest.check(ONLINE.format(2, 0))
    machine.resize_cpus(2)
    guest.check(LOAD.format(1, 2))
    assert guest.check(f"{ONLINE.format(1, 0)}; nproc") == "1\n"
    machine.resize_cpus(1)
    machine.resize_cpus(2)
    assert guest.check(f"{ONLINE.format(1, 1)}; nproc; cat /sys/devices/system/cpu/online") == "2\n0-1\n"
    guest.check(LOAD.format(1, 2))
    for _ in range(20):  # used as soon as it is there, and given back at once
        guest.check(ONLINE.format(1, 0))
        machine.resize_cpus(1)
        machine.resize_cpus(2)
        assert guest.check(f"{ONLINE.format(1, 1)}; taskset 2 nproc") == "1\n"
    assert not complaints(guest)
    assert guest.power_off().kind == "poweroff"


@pytest.mark.long
def test_a_guest_does_not_get_vcpus_by_itself(boot: Boot) -> None:
    """Linux tries it for 10 s, and may try again when it has been allowed."""
    guest = boot(cpus=1, max_cpus=2)
    assert guest.run(ONLINE.format(1, 1), 60)[0] != 0
    guest.machine.resize_cpus(2)
    assert guest.check(f"{ONLINE.format(1, 1)}; nproc") == "2\n"
    guest.check(LOAD.format(1, 2))


@pytest.mark.parametrize("isolation", ["process", pytest.param("thread", marks=pytest.mark.long)])
def test_pauses_and_resets_with_a_share(boot: Boot, tmp_path: Path, isolation: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    guest = boot(shares=[ShareConfig(str(shared), isolation=isolation)])
    for round_ in range(2):
        guest.check("mkdir -p /mnt && mount -t virtiofs share /mnt")
        guest.check("(i=0; while [ $i -lt 300 ]; do echo $i >/mnt/n$i; i=$((i+1)); done; echo all >/mnt/done) &")
        for _ in range(10):
            guest.machine.pause()
            before = sorted(path.name for path in shared.iterdir())
            time.sleep(0.02)  # nothing may happen
            assert sorted(path.name for path in shared.iterdir()) == before, "nothing is served meanwhile"
            guest.machine.resume()
            time.sleep(0.03)  # some of it, but not all
        guest.check("while [ ! -s /mnt/done ]; do sleep 0.1; done")
        assert [(shared / f"n{number}").read_text() for number in range(300)] == [f"{n}\n" for n in range(300)]
        for path in shared.iterdir():
            path.unlink()
        if not round_:
            guest.machine.reset()
            guest.expect("pyvmm-init: hello", BOOT_TIMEOUT)
            guest.start_shell()
    assert guest.power_off().kind == "poweroff"


def test_a_long_pause_is_no_lockup(vm: Guest) -> None:
    before = float(vm.check("cut -d' ' -f1 /proc/uptime"))
    vm.machine.pause()
    time.sleep(5)  # the time is the subject
    vm.machine.resume()
    assert float(vm.check("cut -d' ' -f1 /proc/uptime")) > before
    assert vm.check("dmesg | grep -ciE 'soft lockup|stall|unstable' || true") == "0\n"


def test_registers_of_a_paused_guest(boot: Boot) -> None:
    guest = boot(cpus=2)
    guest.machine.pause()
    for vcpu in guest.machine.vcpus:
        assert vcpu.regs.rip and vcpu.sregs.cr3 and vcpu.sregs.efer & 1 << 10, "long mode"
        assert vcpu.translate(vcpu.regs.rip) is not None
    guest.machine.resume()
    assert guest.check("nproc") == "2\n"
    with pytest.raises(ConfigError):
        _ = guest.machine.vcpus[0].regs


# tests/unit/test_life.py resets paused machines, with tiny guests
@pytest.mark.parametrize(
    ("state", "transport"),
    [
        ("running", "mmio"),
        pytest.param("paused", "mmio", marks=pytest.mark.long),
        pytest.param("ended", "mmio", marks=pytest.mark.long),
        pytest.param("running", "pci", marks=pytest.mark.long),
    ],
)
def test_reset_boots_the_guest_anew(boot: Boot, state: str, transport: str) -> None:
    guest = boot(cpus=2, transport=transport)
    for round_ in range(2):
        guest.check(f"echo {round_} >>/root/rounds; touch /tmp/gone; sync")
        if state == "paused":
            guest.machine.pause()
        elif state == "ended":
            guest.power_off()
        guest.machine.reset()
        guest.expect("pyvmm-init: hello", BOOT_TIMEOUT)
        guest.start_shell()
        assert guest.check("cat /root/rounds; ls /tmp; nproc") == "".join(f"{n}\n" for n in range(round_ + 1)) + "2\n"
    assert guest.power_off().kind == "poweroff"


def test_the_power_button_powers_off_in_order(boot: Boot) -> None:
    guest = boot(shell=False)
    guest.expect(re.escape(PROMPT), BOOT_TIMEOUT)
    guest.machine.press_power_button()
    assert guest.wait().kind == "poweroff"
    assert "reboot: Power down" in guest.console or "Power down" in guest.console
