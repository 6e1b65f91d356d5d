"""How a guest ends its run: the ports it writes, and what comes of each."""

from __future__ import annotations

import pytest

from vmm.boot import layout
from vmm.bus import Bus
from vmm.devices import power_devices

Ports = tuple[Bus, list[str]]


@pytest.fixture
def ports() -> Ports:
    """The PIO bus of a machine, and the events that its guest caused."""
    events: list[str] = []
    bus = Bus("pio")
    for base, size, device in power_devices(events.append):
        bus.add(base, size, device)
    return bus, events


@pytest.mark.parametrize(
    ("port", "value", "event"),
    [
        (layout.ACPI_SLEEP_CONTROL, layout.ACPI_POWER_OFF, "poweroff"),
        (layout.ACPI_RESET, layout.ACPI_RESET_VALUE, "reboot"),
        (layout.I8042_COMMAND, layout.I8042_RESET, "reboot"),
        (layout.PVPANIC, 1, "panic"),
    ],
)
def test_what_the_tables_tell_the_guest_to_write_works(ports: Ports, port: int, value: int, event: str) -> None:
    bus, events = ports
    bus.write(port, 1, value)
    assert events == [event]


@pytest.mark.parametrize(
    ("port", "value"),
    [
        (layout.ACPI_SLEEP_CONTROL, layout.ACPI_S5_TYPE << 2),  # without SLP_EN
        (layout.ACPI_SLEEP_CONTROL, 1 << 5 | 3 << 2),  # another sleep state
        (layout.ACPI_SLEEP_STATUS, 0x80),  # clears WAK_STS
        (layout.ACPI_RESET, 0),
        (layout.I8042_COMMAND, 0xAA),  # self-test
        (layout.I8042_COMMAND, 0xFF),  # pulses no line
        (layout.PVPANIC, 2),  # a crash kernel goes on
        (layout.PVPANIC, 0),
    ],
)
def test_other_values_do_not_end_the_run(ports: Ports, port: int, value: int) -> None:
    bus, events = ports
    bus.write(port, 1, value)
    assert events == []


def test_a_guest_reads_what_its_drivers_wait_for(ports: Ports) -> None:
    bus, _ = ports
    assert bus.read(layout.I8042_COMMAND, 1) & 0x02 == 0, "ready for the reset command"
    assert bus.read(layout.PVPANIC, 1) == 0x03
    assert bus.read(layout.ACPI_SLEEP_STATUS, 1) == 0


def test_a_wide_write_reaches_each_register(ports: Ports) -> None:
    bus, events = ports
    bus.write(layout.ACPI_SLEEP_CONTROL, 2, 0x8000 | layout.ACPI_POWER_OFF)
    assert events == ["poweroff"]


def test_accesses_over_the_end_of_a_range_do_nothing(ports: Ports) -> None:
    bus, events = ports
    for base, size, _ in bus.ranges():
        for width in (2, 4, 8):
            bus.write(base + size - 1, width, (1 << 8 * width) - 1)
            assert bus.read(base + size - 1, width) == (1 << 8 * width) - 1
    assert events == []
