"""The layout of guest RAM: regions of guest physical addresses around the holes for devices."""

from __future__ import annotations

PAGE = 4096
HOLE_START = 0xC000_0000
"""Where the 32-bit hole for devices begins: 3 GiB."""
HOLE_END = 0x1_0000_0000
"""RAM continues here: 4 GiB."""
HOTPLUG_ALIGN = 2 << 30
"""Memory that is added begins at a multiple of this: of the largest piece in which Linux adds memory on any machine."""
ADDRESSES_END = 1 << 39
"""What the CPUs with the fewest address lines have."""
HUGE_2M = 2 << 20


class Region:
    """A run of guest RAM: *size* bytes at guest physical *gpa*, *offset* bytes from the beginning of RAM."""

    __slots__ = ("gpa", "offset", "size")

    def __init__(self, gpa: int, size: int, offset: int) -> None:
        self.gpa = gpa
        self.size = size
        self.offset = offset

    @property
    def end(self) -> int:
        """The first address after the region."""
        return self.gpa + self.size

    def __repr__(self) -> str:
        return f"Region({self.gpa:#x}..{self.end:#x})"


def regions(size: int, hotplug: int = 0) -> tuple[Region, ...]:
    """The layout of *size* bytes of RAM around the hole between 3 and 4 GiB, followed by *hotplug* bytes that a guest
    may get later."""
    if size <= HOLE_START:
        first: tuple[Region, ...] = (Region(0, size, 0),)
    else:
        first = (Region(0, HOLE_START, 0), Region(HOLE_END, size - HOLE_START, HOLE_START))
    return (*first, Region(hotplug_base(size), hotplug, size)) if hotplug else first


def hotplug_base(size: int) -> int:
    """The address of memory that is added to *size* bytes of RAM."""
    end = size if size <= HOLE_START else HOLE_END + size - HOLE_START
    return -(-max(end, HOLE_END) // HOTPLUG_ALIGN) * HOTPLUG_ALIGN
