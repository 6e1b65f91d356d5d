"""The facts about a kernel file that loading needs, and the checks that it fits a machine."""

from __future__ import annotations

from vmm.boot import layout
from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.memory.layout import HOLE_END, HOLE_START, HUGE_2M, PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from vmm.memory.layout import Region

MAX_SEGMENTS = 64
"""More loadable segments than any kernel has."""
_MIB = 1 << 20
_FIRST_FREE = range(8 << 20, 14 << 20)
"""What the project's own kernel, which has no zone for DMA, gives out first."""
_PAGE_STRUCT = 64
"""Bytes of ``struct page``."""
_MOST_PIECES = 32
"""Of their array: of 4 GiB.  A guest with more has the CPUs to fill it."""
_MOST_ZEROS = 4 << 20
"""Behind a segment: what follows may be a heap."""
_LEAST_RAM = 128 << 20
"""A guest with less needs little, whatever it is."""
_LEAST_LINUX = 2 << 20
"""Bytes of a Linux kernel in memory, its zeros included.  A smaller kernel is another one."""

Identity = tuple[int, int, int, int, int]
"""Of a file: device, inode, size, mtime and ctime in nanoseconds."""


def identity(status: os.stat_result) -> Identity:
    """The identity of one state of a file."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True)
class Segment:
    """*filesz* bytes at *offset* of the file are loaded at guest physical *paddr*; zeros follow up to *memsz* bytes."""

    offset: int
    filesz: int
    memsz: int
    paddr: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.paddr + self.memsz


@dataclass(frozen=True)
class KernelImage:
    """A kernel: what to load, and where to start it.

    :ivar segments: in ascending order of address, disjoint, none empty
    :ivar entry64: physical address of the 64-bit entry, or None
    :ivar pvh_entry: physical address of the PVH entry, or None
    :ivar setup: of a bzImage, its setup header
    :ivar initrd_max: the highest address that a byte of its initrd may have
    """

    path: str
    identity: Identity
    segments: tuple[Segment, ...]
    entry64: int | None
    pvh_entry: int | None
    setup: bytes = b""
    initrd_max: int = 0xFFFF_FFFF


def check_image(image: KernelImage) -> None:
    """The checks for every kernel, whatever machine it is loaded into.

    :raises ConfigError: the file contradicts itself
    """
    where, size = f"kernel {image.path}", image.identity[2]
    if not image.segments:
        raise ConfigError(
            f"{where}: the ELF file has nothing to load (no PT_LOAD segment)",
            code="kernel-segments",
            hint="a kernel's vmlinux is needed, not an object file or separate debug information",
        )
    if len(image.segments) > MAX_SEGMENTS:
        raise ConfigError(
            f"{where}: {len(image.segments)} segments, {MAX_SEGMENTS} are the most",
            code="kernel-segments",
            hint="this is no kernel, or a damaged one",
        )
    before: Segment | None = None
    for segment in image.segments:
        name = f"the segment at {segment.paddr:#x}"
        if segment.offset + segment.filesz > size:
            raise ConfigError(
                f"{where} is truncated: {name} ends at byte {segment.offset + segment.filesz},"
                f" the file has {size} bytes",
                code="kernel-truncated",
                hint="copy or build the file again",
            )
        if segment.filesz > segment.memsz:
            raise ConfigError(
                f"{where}: {name} has {segment.filesz} bytes in the file but only {segment.memsz} in memory",
                code="kernel-segments",
                hint="the ELF file is damaged: build it again",
            )
        if before is not None and segment.paddr < before.end:
            raise ConfigError(
                f"{where}: {name} overlaps the one at {before.paddr:#x}..{before.end:#x}",
                code="kernel-segments",
                hint="the ELF file is damaged: build it again",
            )
        before = segment
    for entry, what in ((image.pvh_entry, "PVH"), (image.entry64, "64-bit")):
        if entry is not None and not any(s.paddr <= entry < s.end for s in image.segments):
            raise ConfigError(
                f"{where}: its {what} entry {entry:#x} is outside the loaded segments",
                code="kernel-entry",
                hint="the ELF file is damaged: build it again",
            )
    if image.pvh_entry is None and image.entry64 is None:
        raise ConfigError(
            f"{where}: no PVH note, and no 64-bit entry inside of what is loaded",
            code="kernel-entry",
            hint="build Linux for x86-64, with CONFIG_PVH=y",
        )


def check_placement(image: KernelImage, ram: Sequence[Region]) -> None:
    """Check that every segment lies in RAM and does not overlap our own tables.

    :raises ConfigError: it does not
    """
    for segment in image.segments:
        where = f"kernel {image.path}: the segment {segment.paddr:#x}..{segment.end:#x}"
        if segment.paddr < layout.TABLES_END and segment.end > layout.TABLES_START:
            raise ConfigError(
                f"{where} lies over the tables that the VMM puts at {layout.TABLES_START:#x}..{layout.TABLES_END:#x}",
                code="kernel-over-tables",
                hint="link the kernel at 1 MiB or above",
            )
        if segment.paddr < HOLE_END and segment.end > HOLE_START:
            raise ConfigError(
                f"{where} lies over the hole for devices at {HOLE_START:#x}..{HOLE_END:#x}",
                code="kernel-over-hole",
                hint="link the kernel below 3 GiB",
            )
        if not any(region.gpa <= segment.paddr and segment.end <= region.end for region in ram):
            least = segment.end if segment.end <= HOLE_START else segment.end - (HOLE_END - HOLE_START)
            raise ConfigError(
                f"{where} lies outside of the {sum(region.size for region in ram) / _MIB:g} MiB of RAM",
                code="kernel-outside-ram",
                hint=f"this kernel needs --memory {-(-least // _MIB)}M or more"
                if least < 1 << 46
                else "the ELF file is damaged: build it again",
            )


def initrd_address(path: str, size: int, image: KernelImage, ram: Sequence[Region]) -> int:
    """The address of an initrd of *size* bytes: page aligned, at the very top of low RAM.

    :raises ConfigError: it does not fit above the kernel
    """
    top = min(ram[0].end, image.initrd_max + 1)
    start = (top - size) & ~0xFFF
    kernel_end = max([layout.TABLES_END, *(s.end for s in image.segments if s.paddr < HOLE_START)])
    if start < kernel_end:
        room = max(top - kernel_end, 0)
        needed = -(-(kernel_end + size + 0xFFF) // _MIB)
        raise ConfigError(
            f"initrd {path}: its {size} bytes do not fit into the {room} bytes between the kernel"
            f" (up to {kernel_end:#x}) and the end of low RAM ({top:#x})",
            code="initrd-size",
            hint=f"give --memory {needed}M or more, rather twice that"
            if needed * _MIB <= HOLE_START
            else "an initrd must fit below 3 GiB: make it smaller, or use a root disk",
        )
    return start


def early_pieces(image: KernelImage, initrd: tuple[int, int], ram: Sequence[Region]) -> list[tuple[int, int]]:
    """The parts of RAM that a Linux guest touches almost completely until it has booted: addresses, half-open, of whole
    pieces of 2 MiB. There huge pages save time and take no more memory; elsewhere they would take memory that is never
    used.

    - Pieces of which the kernel's segments (of their zeros at most :data:`_MOST_ZEROS`) or the *initrd* (address, end)
      take more than half.
    - The array of ``struct page``, which Linux puts at the top of RAM, below an initrd and less than 2 MiB of earlier
      allocations; and 2 MiB below it, with hash tables and per-CPU data. Not where the kernel is too small to be Linux.
    - :data:`_FIRST_FREE`, where all of such a kernel lies above it.
    """
    covered: dict[int, int] = {}
    parts = [(s.paddr, s.paddr + min(s.memsz, s.filesz + _MOST_ZEROS)) for s in image.segments]
    for start, end in (*parts, initrd):
        for piece in range(start // HUGE_2M, -(-end // HUGE_2M)):
            inside = min(end, (piece + 1) * HUGE_2M) - max(start, piece * HUGE_2M)
            covered[piece] = covered.get(piece, 0) + inside
    wanted = {piece for piece, size in covered.items() if size > HUGE_2M // 2}
    size = sum(region.size for region in ram)
    if size >= _LEAST_RAM and sum(segment.memsz for segment in image.segments) >= _LEAST_LINUX:
        top = initrd[0] if len(ram) == 1 and initrd[0] else ram[-1].end
        last = top // HUGE_2M - 1
        pages = min(-(-size // PAGE * _PAGE_STRUCT // HUGE_2M), _MOST_PIECES)
        wanted.update(range(last - pages - 1, last))
        if image.segments[0].paddr >= _FIRST_FREE.stop:
            wanted.update(range(_FIRST_FREE.start // HUGE_2M, _FIRST_FREE.stop // HUGE_2M))
    return [
        (piece * HUGE_2M, (piece + 1) * HUGE_2M)
        for piece in sorted(wanted)
        if any(region.gpa <= piece * HUGE_2M and (piece + 1) * HUGE_2M <= region.end for region in ram)
    ]
