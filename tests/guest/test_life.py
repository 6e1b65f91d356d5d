"""Pause, resume, reset and the power button, with Linux and its drivers at work."""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.vmfixture import BOOT_TIMEOUT, PROMPT, Guest
from vmm import ConfigError, ShareConfig

WORK = """
cd /root; for i in 1 2 3 4; do
    dd if=/dev/urandom of=file$i bs=64k count=32 2>/dev/null; md5sum file$i | cut -c -32 >sum$i; sync
    echo 3 >/proc/sys/vm/drop_caches
    [ $(md5sum file$i | cut -c -32) = $(cat sum$i) ] || echo wrong $i
done; echo done
"""


@pytest.mark.parametrize(("cpus", "transport"), [(1, "mmio"), (2, "mmio"), (2, "pci")])
def test_pauses_while_the_guest_writes_and_reads_its_disk(boot: Boot, cpus: int, transport: str) -> None:
    guest = boot(cpus=cpus, transport=transport)
    machine = guest.machine
    guest.type(f"77\n{base64.encodebytes(WORK.encode()).decode()}.\n")
    pauses = 0
    deadline = time.monotonic() + 120
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
            time.sleep(0.02)
            assert sorted(path.name for path in shared.iterdir()) == before, "nothing is served meanwhile"
            guest.machine.resume()
            time.sleep(0.03)
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
    time.sleep(5)
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


@pytest.mark.parametrize(
    ("state", "transport"), [("running", "mmio"), ("paused", "mmio"), ("ended", "mmio"), ("running", "pci")]
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
