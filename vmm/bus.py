"""Address ranges and the devices behind them: port I/O and MMIO in the control plane."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.saveable import Saveable


class BusDevice(Saveable):
    """The device that answers accesses to a range of a bus. Offsets count from the start of the range; sizes are 1, 2,
    4 or 8 bytes; values are unsigned little-endian integers."""

    def read(self, offset: int, size: int) -> int:
        """The value that the guest reads. Unless overridden, all ones: no device drives the bus."""
        return (1 << (8 * size)) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """The guest wrote *value*.  Unless overridden, ignored."""


class Bus:
    """A sorted table of disjoint ranges.

    >>> bus = Bus("pio"); bus.add(0x64, 1, BusDevice()); bus.read(0x64, 1)
    255
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._ranges: list[tuple[int, int, BusDevice]] = []

    def add(self, base: int, size: int, device: BusDevice) -> None:
        """Put *device* at ``base .. base + size``.

        :raises ConfigError: the range overlaps another
        """
        for other, other_size, taken in self._ranges:
            if base < other + other_size and other < base + size:
                raise ConfigError(
                    f"{self.name}: {device.name} at {base:#x}+{size:#x} overlaps {taken.name} at {other:#x}+"
                    f"{other_size:#x}",
                    code="bus-overlap",
                )
        # A new list: other threads may be looking a range up in the old one
        behind = not self._ranges or self._ranges[-1][0] < base
        self._ranges = [*self._ranges, (base, size, device)]
        if not behind:
            self._ranges = sorted(self._ranges, key=lambda item: item[0])

    def remove(self, device: BusDevice) -> None:
        """Remove every range of *device* from the bus."""
        self._ranges = [item for item in self._ranges if item[2] is not device]

    def ranges(self) -> tuple[tuple[int, int, BusDevice], ...]:
        """All ranges as ``(base, size, device)``, lowest first."""
        return tuple(self._ranges)

    def find(self, address: int, size: int) -> tuple[BusDevice, int] | None:
        """The device whose range contains all *size* bytes at *address*, and the offset in it."""
        for base, length, device in self._ranges:
            if base <= address and address + size <= base + length:
                return device, address - base
        return None

    def read(self, address: int, size: int) -> int:
        """The value that the guest reads at *address*; all ones where no device answers."""
        hit = self.find(address, size)
        mask = (1 << (8 * size)) - 1
        return mask if hit is None else hit[0].read(hit[1], size) & mask

    def write(self, address: int, size: int, value: int) -> None:
        """A write of the guest at *address*; ignored where no device answers."""
        hit = self.find(address, size)
        if hit is not None:
            hit[0].write(hit[1], size, value)
