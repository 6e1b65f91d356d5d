"""How Linux ends, and what the VMM takes that for. tests/unit/test_machine.py has the same with tiny guests."""

from __future__ import annotations

import base64

import pytest

from tests.guest.conftest import Boot
from tests.guest.vmfixture import BOOT_TIMEOUT, Guest


def run_at_boot(command: str) -> str:
    """The words for the kernel's command line that have init run *command* instead of a shell."""
    return f"pyvmm.quiet pyvmm.run64={base64.b64encode(command.encode()).decode()}"


@pytest.mark.parametrize(
    ("words", "kind"),
    [("", "reboot"), ("reboot=k", "reboot"), ("reboot=b", "reboot"), ("reboot=t", "triple-fault")],
    ids=["reset register", "i8042", "BIOS", "triple fault"],
)
def test_reboot_by_every_way_that_linux_has_here(boot: Boot, words: str, kind: str) -> None:
    guest = boot(cmdline=f"{words} {run_at_boot('reboot -f')}", shell=False)
    end = guest.wait(BOOT_TIMEOUT)
    assert end.kind == kind
    assert "pyvmm-init: hello" in guest.console
    if kind == "triple-fault":
        assert "64-bit mode at rip 0xffffffff" in end.detail or "AMD CPUs lose the state" in end.detail


def test_power_off_with_more_cpus(boot: Boot) -> None:
    guest = boot(cpus=2, cmdline=run_at_boot("echo the command runs; exit 7"), shell=False)
    assert guest.wait(BOOT_TIMEOUT).kind == "poweroff"
    assert "the command runs\n" in guest.console
    assert "\npyvmm-exit: 7\n" in guest.console


def test_panic(boot: Boot) -> None:
    guest = boot(cmdline=run_at_boot("echo c >/proc/sysrq-trigger"), shell=False)
    assert guest.wait(BOOT_TIMEOUT).kind == "panic"
    assert "Kernel panic - not syncing: sysrq triggered crash" in guest.console, "the reason is on the console"


def test_panic_without_an_init(boot: Boot) -> None:
    guest = boot(cmdline="init=/not/there", shell=False)
    assert guest.wait(BOOT_TIMEOUT).kind == "panic"
    assert "Requested init /not/there failed" in guest.console


def test_panic_without_a_root(boot: Boot) -> None:
    guest = boot(rootfs=None, shell=False)
    assert guest.wait(BOOT_TIMEOUT).kind == "panic"
    assert "Unable to mount root fs" in guest.console


def test_stop_takes_the_power_away(vm: Guest) -> None:
    vm.machine.stop(detail="enough")
    end = vm.wait()
    assert (end.kind, end.detail) == ("stopped", "enough")
