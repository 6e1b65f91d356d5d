"""What Linux makes of 1 to 32 CPUs: topology, clocks, interrupts, and that all of them work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.shared import complaints, running, show
from tests.guest.vmfixture import Guest


@pytest.fixture(scope="module", params=[1, 2, 3, 32])
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
