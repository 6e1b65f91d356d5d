"""A pytest plugin: the fixture ``vm`` makes virtual machines for a test.

It is there as soon as the package is installed::

    def test_it_boots(vm):
        guest = vm(BootConfig("vmlinux"), rootfs=DiskConfig("root.img"))
        guest.expect(rb"login: ")

Machines are closed when the test ends, and the report of a test that failed shows what each has printed. A test is
skipped where ``/dev/kvm`` is not usable, unless ``--require-vm`` is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.config import BootConfig
    from vmm.testing.guest import TestGuest

GUESTS = pytest.StashKey["list[TestGuest]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--require-vm``."""
    group = parser.getgroup("pyvmm", "virtual machines (pyvmm)")
    group.addoption("--require-vm", action="store_true", help="fail, instead of skipping, where no VM can run")


@pytest.fixture
def vm(request: pytest.FixtureRequest) -> Iterator[Callable[..., TestGuest]]:
    """Makes started machines: ``vm(BootConfig(...), **fields of MachineConfig)``; returns a
    :class:`~vmm.testing.guest.TestGuest`.  ``start=False`` leaves it unstarted, ``devices=`` are further devices."""
    from vmm.errors import HostError
    from vmm.testing.guest import TestGuest

    guests: list[TestGuest] = []
    request.node.stash[GUESTS] = guests

    def make(boot: BootConfig, *, start: bool = True, **options: Any) -> TestGuest:
        try:
            guest = TestGuest(boot, **options)
        except HostError as error:
            if error.code in ("kvm-open", "kvm-version") and not request.config.getoption("--require-vm"):
                pytest.skip(f"no virtual machine can run here: {error}")
            raise
        guests.append(guest)
        if start:
            guest.machine.start()
        return guest

    yield make
    for guest in guests:
        guest.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add the consoles of a test that failed."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed and report.when == "call":
        guests: list[TestGuest] = item.stash.get(GUESTS, [])
        for number, guest in enumerate(guests):
            text = guest.drain().decode(errors="replace")
            report.sections.append((f"console of vm {number}", text or "(it printed nothing)"))
    return report  # type: ignore[return-value]
