"""Linux is booted by either entry, from a root disk and from an initrd, and is told what it should be."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import complaints, running, show
from tests.guest.vmfixture import BOOT_TIMEOUT, Guest
from tools import guest as recipes
from vmm import RngConfig
from vmm.boot import default_cmdline, layout


@pytest.fixture(scope="session")
def initrd() -> str:
    """The guest's root as an initramfs."""
    return recipes.make("rootfs.py", "--kind", "initrd")


# The usual two have both entries and both roots
@pytest.mark.parametrize(
    ("root", "entry"),
    [
        ("disk", "pvh"),
        ("initrd", "linux64"),
        pytest.param("disk", "linux64", marks=pytest.mark.long),
        pytest.param("initrd", "pvh", marks=pytest.mark.long),
    ],
)
def test_entry_and_root(boot: Boot, request: pytest.FixtureRequest, entry: str, root: str) -> None:
    default = default_cmdline(rootfs=root == "disk")
    room = layout.CMDLINE_SIZE - 1 - len(default) - 1
    own = "pyvmm.quiet " + "x" * (room - 17) + ".last"
    if root == "disk":
        guest = boot(entry=entry, cmdline=own)
    else:
        guest = boot(entry=entry, cmdline=own, rootfs=None, initrd=request.getfixturevalue("initrd"))

    # Our own kernel has a beginning of its command line built in; of a line that is too long, Linux drops the end
    seen = guest.check("cat /proc/cmdline").removesuffix("\n")
    before, given, _ = seen.partition(default)
    assert given and len(before) < 100
    assert seen == f"{before}{default} {own}"[: layout.CMDLINE_SIZE - 1]

    mounted = guest.check("awk '$2 == \"/\" { print $3 }' /proc/mounts").split()
    assert mounted[-1] == ("ext4" if root == "disk" else "rootfs")
    assert complaints(guest) == []
    assert guest.power_off().kind == "poweroff"


# -- how Linux ends, and what the VMM takes that for. tests/unit/test_machine.py has the same with tiny guests -------


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


# -- what Linux makes of 1 to 32 CPUs: topology, clocks, interrupts, and that all of them work -----------------------


# With 16 a boot takes most of a minute; other files have guests with one and two
@pytest.fixture(scope="module", params=[3, *(pytest.param(cpus, marks=pytest.mark.long) for cpus in (1, 16, 32))])
def machine(
    request: pytest.FixtureRequest, guest_kernel: str, guest_disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Guest, int]]:
    """A guest, and how many CPUs it was given."""
    cpus: int = request.param
    with running(guest_kernel, guest_disk, tmp_path_factory.mktemp("vm"), cpus=cpus) as guest:
        yield guest, cpus


@pytest.fixture
def guest(request: pytest.FixtureRequest, machine: tuple[Guest, int]) -> Guest:
    return show(request, machine[0])


@pytest.fixture
def cpus(machine: tuple[Guest, int]) -> int:
    return machine[1]


def cpuinfo(guest: Guest, field: str) -> list[str]:
    """A field of /proc/cpuinfo, of each CPU."""
    lines = guest.check(f"grep '^{field}[[:space:]]*:' /proc/cpuinfo").splitlines()
    return [line.partition(":")[2].strip() for line in lines]


def test_one_package_of_cores_without_threads(guest: Guest, cpus: int) -> None:
    assert guest.check("nproc") == f"{cpus}\n"
    numbers = [str(number) for number in range(cpus)]
    for field in ("processor", "apicid", "initial apicid", "core id"):
        assert cpuinfo(guest, field) == numbers, field
    assert set(cpuinfo(guest, "physical id")) == {"0"}
    for field in ("cpu cores", "siblings"):
        assert set(cpuinfo(guest, field)) == {str(cpus)}, field
    siblings = "/sys/devices/system/cpu/cpu*/topology/thread_siblings_list"
    assert guest.check(f"cat {siblings} | sort -n").split() == numbers


def test_linux_knows_that_it_is_a_guest_of_kvm(guest: Guest, cpus: int) -> None:
    assert guest.check("grep -c '^flags.* hypervisor ' /proc/cpuinfo") == f"{cpus}\n"
    guest.check("dmesg | grep -q 'Hypervisor detected: KVM'")


def test_time_comes_from_the_host_without_measuring(guest: Guest, cpus: int) -> None:
    assert guest.check("cat /sys/devices/system/clocksource/clocksource0/current_clocksource") == "kvm-clock\n"
    assert guest.check("grep -c '^flags.* tsc_known_freq ' /proc/cpuinfo") == f"{cpus}\n"
    for known in ("tsc: Detected", "TSC deadline timer available", "Calibrating delay loop (skipped)"):
        guest.check(f"dmesg | grep -qF '{known}'")
    measured = "calibrating APIC timer|APIC calibration|Fast TSC calibration|tsc: Refined|unstable"
    assert guest.check(f"dmesg | grep -E '{measured}' || true") == ""


def test_an_idle_guest_is_not_woken_up_to_move_pages(guest: Guest, cpus: int) -> None:
    woken = "name=$(grep -lx kcompactd0 /proc/[0-9]*/comm); grep ^voluntary ${name%comm}status"
    guest.check("sleep 1")  # it slept for half a second when the init said so
    before = guest.check(woken)
    guest.check("sleep 2")  # the time is the subject
    assert guest.check(woken) == before


def test_every_cpu_takes_load(guest: Guest, cpus: int) -> None:
    where = guest.check(f"""cat >/tmp/work <<'END'
i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); done
cut -d ' ' -f 39 /proc/self/stat
END
for cpu in $(seq 0 {cpus - 1}); do taskset -c $cpu sh /tmp/work & done; wait""").split()
    assert sorted(map(int, where)) == list(range(cpus))
    timers = guest.check("grep LOC: /proc/interrupts").split()[1 : cpus + 1]
    assert len(timers) == cpus and all(int(count) > 0 for count in timers), "each has its own"


def test_linux_has_nothing_to_complain_about(guest: Guest) -> None:
    assert complaints(guest) == []


# -- the entropy device ----------------------------------------------------------------------------------------------

RNG_CURRENT = "cat /sys/class/misc/hw_random/rng_current"


@pytest.mark.parametrize("transport", ["mmio", pytest.param("pci", marks=pytest.mark.long)])
def test_a_guest_has_an_entropy_device_unless_told_otherwise(boot: Boot, transport: str) -> None:
    guest = boot(transport=transport)
    assert guest.check(RNG_CURRENT) == "virtio_rng.0\n"
    first, second = (guest.check("head -c 100000 /dev/hwrng | md5sum") for _ in range(2))
    assert first != second
    assert guest.check("head -c 100000 /dev/hwrng | wc -c") == "100000\n"
    assert guest.machine.devices[-1].stats()["bytes"] >= 300000
    guest.machine.pause()
    guest.machine.resume()
    assert guest.check("head -c 64 /dev/hwrng | wc -c") == "64\n"


def test_the_entropy_device_moves_no_other_one(boot: Boot) -> None:
    """The first slot is the first disk's, whether the guest has this device or not."""
    links = [boot(rng=rng).check("readlink /sys/block/vda/device") for rng in (RngConfig(), None)]
    assert links[0] == links[1]


def test_no_entropy_device(boot: Boot) -> None:
    guest = boot(rng=None)
    assert guest.check(f"{RNG_CURRENT}; ls /sys/bus/virtio/drivers/virtio_rng | grep -c ^virtio || true") == "none\n0\n"


def test_an_entropy_device_with_a_source_of_the_hosts(boot: Boot) -> None:
    guest = boot(rng=RngConfig("/dev/zero"))
    assert guest.check("head -c 4096 /dev/hwrng | tr -d '\\0' | wc -c") == "0\n"
