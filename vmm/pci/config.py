"""A function's configuration space: 4096 bytes, and a mask of those that the guest may write.

The guest reads the bytes themselves: C answers from them. Its writes go through :meth:`write`, which changes only bits
of the mask and returns the bytes concerned; the function then acts on them.
"""

from __future__ import annotations

import mmap
import struct

from vmm.pci import spec

WINDOW_BAR = 2
"""It takes the place of number 3, too."""
_FLAGS = 0xF


class ConfigSpace:
    """A type 0 header with a list of capabilities and at most two memory BARs: number 0, of 32 bits, and number
    :data:`WINDOW_BAR`, of 64 bits and prefetchable.

    :param class_code: 24 bits: class, subclass, interface
    :param bar_size: bytes that BAR 0 decodes, a power of two from 16 on; 0: there is none
    :param window_size: the same for :data:`WINDOW_BAR`
    :ivar page: the bytes (4096, page-aligned) that the guest reads
    :ivar bars: the size of each existing BAR, by its number
    """

    def __init__(
        self,
        vendor: int,
        device: int,
        class_code: int,
        *,
        revision: int = 0,
        subsystem: tuple[int, int] = (0, 0),
        bar_size: int = 0,
        window_size: int = 0,
        interrupt_pin: int = 0,
    ) -> None:
        self.page = mmap.mmap(-1, spec.CONFIG_SIZE)
        self._mask = bytearray(spec.CONFIG_SIZE)
        self._words = memoryview(self.page).cast("I")
        self.bars: dict[int, int] = {}
        self._next_capability = spec.HEADER_END
        self._last_link = spec.CAPABILITY_LIST
        struct.pack_into("<HHHHI", self.page, 0, vendor, device, 0, 0, class_code << 8 | revision)
        struct.pack_into("<HH", self.page, spec.SUBSYSTEM_VENDOR_ID, *subsystem)
        self.page[spec.INTERRUPT_PIN] = interrupt_pin
        command = 0
        if bar_size:
            self.bars[0] = bar_size
            command |= spec.COMMAND_MEMORY | spec.COMMAND_MASTER
            self.allow(spec.BASE_ADDRESS_0, (~(bar_size - 1) & 0xFFFF_FFFF).to_bytes(4, "little"))
        if window_size:
            self.bars[WINDOW_BAR] = window_size
            at = spec.BASE_ADDRESS_0 + 4 * WINDOW_BAR
            self.page[at] = spec.BASE_ADDRESS_MEM_TYPE_64 | spec.BASE_ADDRESS_MEM_PREFETCH
            self.allow(at, (~(window_size - 1) & (1 << 64) - 1).to_bytes(8, "little"))
        if interrupt_pin:
            command |= spec.COMMAND_INTX_DISABLE
        self.allow(spec.COMMAND, command.to_bytes(2, "little"))
        self.allow(spec.CACHE_LINE_SIZE, b"\xff")
        self.allow(spec.INTERRUPT_LINE, b"\xff")

    def allow(self, offset: int, mask: bytes) -> None:
        """The guest may write these bits."""
        self._mask[offset : offset + len(mask)] = mask

    def add_capability(self, kind: int, body: bytes, mask: bytes = b"") -> int:
        """Append a capability.

        :param body: the bytes after its id and the link to the next (PCI 3.0, 6.7)
        :param mask: the bits of *body* that the guest may write
        :returns: its offset
        """
        at = self._next_capability
        self.page[at : at + 2 + len(body)] = bytes((kind, 0)) + body
        self.page[self._last_link] = at
        self.page[spec.STATUS] |= spec.STATUS_CAP_LIST
        self.allow(at + 2, mask)
        self._last_link = at + 1
        self._next_capability = at + 2 + len(body) + 3 & ~3
        return at

    def word(self, offset: int) -> int:
        """Two bytes."""
        return int.from_bytes(self.page[offset : offset + 2], "little")

    def long(self, offset: int) -> int:
        """Four bytes, aligned."""
        return self._words[offset // 4]

    def put(self, offset: int, data: bytes) -> None:
        """Change bytes that the guest may not; any number of aligned words, each atomically."""
        start, end = offset & ~3, offset + len(data) + 3 & ~3
        whole = bytearray(self.page[start:end])
        whole[offset - start : offset - start + len(data)] = data
        for at in range(start, end, 4):
            self._words[at // 4] = int.from_bytes(whole[at - start : at - start + 4], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """The guest's write of *size* bytes, inside the space; bits outside the mask do not change."""
        mask = int.from_bytes(self._mask[offset : offset + size], "little")
        if mask:
            before = int.from_bytes(self.page[offset : offset + size], "little")
            self.put(offset, (before & ~mask | value & mask).to_bytes(size, "little"))

    def save(self) -> bytes:
        """The bytes, for :meth:`is_like` and :meth:`put`."""
        return self.page[:]

    def is_like(self, data: bytes) -> bool:
        """Whether *data* is a state of this space: it differs only in bits that a guest may write. The status register
        and bytes that devices change must be equal in all of them."""
        if len(data) != spec.CONFIG_SIZE:
            return False
        mask, ours, theirs = (int.from_bytes(each, "little") for each in (self._mask, self.page[:], data))
        return (ours ^ theirs) & ~mask == 0

    # -- what the header says ------------------------------------------------------------------------------------

    @property
    def command(self) -> int:
        """The command register."""
        return self.word(spec.COMMAND)

    def bar(self, number: int) -> int | None:
        """The address at which a BAR decodes now; None: nowhere."""
        if number not in self.bars or not self.command & spec.COMMAND_MEMORY:
            return None
        at = spec.BASE_ADDRESS_0 + 4 * number
        high = self.long(at + 4) if number == WINDOW_BAR else 0
        return high << 32 | self.long(at) & ~_FLAGS

    def place_bar(self, number: int, address: int) -> None:
        """Set the address of an existing BAR, for when it is enabled."""
        at = spec.BASE_ADDRESS_0 + 4 * number
        flags = self.page[at] & _FLAGS
        self.put(at, (address | flags).to_bytes(8 if number == WINDOW_BAR else 4, "little"))
