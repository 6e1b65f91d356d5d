"""The memory device (virtio 1.2, 5.15): memory that a guest gets while it runs, and returns.

The region is the last one of guest memory (:class:`~vmm.memory.GuestMemory`). KVM, workers and servers of shares have
it mapped from the start, and a snapshot's file contains it. So a block that is not plugged can be accessed without
harm: it is zero, and writes to it are the guest's own fault and are lost when the block is unplugged.

Requests are rare, and are served on the control loop.
"""

from __future__ import annotations

import struct

from vmm.errors import ConfigError, GuestError
from vmm.saveable import Schema, State, mismatch
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.memory import GuestMemory
    from vmm.virtio.device import DeviceContext
    from vmm.virtio.mem import HotplugMemoryConfig
    from vmm.virtio.queue import Chain, Queue

# 5.15 Memory Device
MEM_F_ACPI_PXM = 1 << 0
MEM_F_UNPLUGGED_INACCESSIBLE = 1 << 1
MEM_CONFIG_FORMAT = "<QH6xQQQQQ"
"""For :mod:`struct`: block_size, node_id, addr, region_size, usable_region_size, plugged_size, requested_size."""
MEM_REQ_FORMAT = "<H6xQH6x"
"""For :mod:`struct`: type, addr, nb_blocks."""
MEM_RESP_FORMAT = "<H6xH"
"""For :mod:`struct`: type, state."""
MEM_REQ_PLUG, MEM_REQ_UNPLUG, MEM_REQ_UNPLUG_ALL, MEM_REQ_STATE = 0, 1, 2, 3
MEM_RESP_ACK, MEM_RESP_NACK, MEM_RESP_BUSY, MEM_RESP_ERROR = 0, 1, 2, 3
MEM_STATE_PLUGGED, MEM_STATE_UNPLUGGED, MEM_STATE_MIXED = 0, 1, 2

_REQ_SIZE = struct.calcsize(MEM_REQ_FORMAT)
_RESP_SIZE = struct.calcsize(MEM_RESP_FORMAT)
_OFF, _ON = b"\0", b"\1"
_SCHEMA = Schema("virtio-mem", 1, {"addr": "u64", "block": "u64", "requested": "u64", "plugged": "bytes"})
"""*plugged*: of each block a byte, 1: it is plugged."""


class HotplugMemory(VirtioDevice):
    """Memory at guest address *addr*, a multiple of 2 GiB."""

    device_id = spec.ID_MEM
    name = "hotplug memory"
    saving = _SCHEMA
    queue_sizes = (64,)
    features = MEM_F_UNPLUGGED_INACCESSIBLE

    def __init__(self, config: HotplugMemoryConfig, addr: int) -> None:
        self._addr = addr
        self._size = config.size
        self._block = config.block
        self._blocks = bytearray(config.size // config.block)
        self._plugged = 0
        self._requested = 0
        self._memory: GuestMemory | None = None
        self._counts = {"plugs": 0, "unplugs": 0, "refused": 0}

    # -- what the driver sees --------------------------------------------------------------------------------

    def read_config(self) -> bytes:
        # All of the region is usable: a block that the guest cannot free does not keep it from taking others
        return struct.pack(
            MEM_CONFIG_FORMAT, self._block, 0, self._addr, self._size, self._size, self._plugged, self._requested
        )

    def activate(self, context: DeviceContext) -> None:
        self._memory = context.memory
        super().activate(context)

    def process(self, queue: Queue) -> None:
        for chain in queue:
            before = self._plugged
            kind, state = self._answer(chain)
            if self._plugged != before:
                self.config_changed(interrupt=False)
            chain.write(struct.pack(MEM_RESP_FORMAT, kind, state))
            queue.push(chain)
            self._counts["refused"] += kind != MEM_RESP_ACK

    def _answer(self, chain: Chain) -> tuple[int, int]:
        if chain.room < _RESP_SIZE:
            raise GuestError(f"chain {chain.head} has no room for the answer to a request", code="mem-request")
        if chain.readable < _REQ_SIZE:
            return MEM_RESP_ERROR, 0
        kind, addr, count = struct.unpack(MEM_REQ_FORMAT, chain.read(_REQ_SIZE))
        if kind == MEM_REQ_UNPLUG_ALL:
            self._unplug_all()
            return MEM_RESP_ACK, 0
        first, rest = divmod(addr - self._addr, self._block)
        if kind > MEM_REQ_STATE or rest or first < 0 or not count or first + count > len(self._blocks):
            return MEM_RESP_ERROR, 0
        found = self._blocks[first : first + count]
        if kind == MEM_REQ_STATE:
            on = found.count(1)
            return MEM_RESP_ACK, (
                MEM_STATE_UNPLUGGED if not on else MEM_STATE_PLUGGED if on == count else MEM_STATE_MIXED
            )
        if found.count(0 if kind == MEM_REQ_PLUG else 1) != count:
            return MEM_RESP_ERROR, 0
        if kind == MEM_REQ_UNPLUG:
            self._release(first, count)
            self._counts["unplugs"] += 1
            return MEM_RESP_ACK, 0
        if self._plugged + count * self._block > self._requested:
            return MEM_RESP_NACK, 0
        self._blocks[first : first + count] = _ON * count
        self._plugged += count * self._block
        self._counts["plugs"] += 1
        return MEM_RESP_ACK, 0

    def _unplug_all(self) -> None:
        first = self._blocks.find(1)
        while first >= 0:
            end = self._blocks.find(0, first)
            self._release(first, (len(self._blocks) if end < 0 else end) - first)
            first = self._blocks.find(1)
        self._counts["unplugs"] += 1

    def _release(self, first: int, count: int) -> None:
        """The plugged blocks; blocks that the host refuses to take back stay allocated."""
        assert self._memory is not None
        size = count * self._block
        self._memory.release(self._addr + first * self._block, size)
        self._blocks[first : first + count] = _OFF * count
        self._plugged -= size

    def stop(self) -> None:
        self._memory = None

    def power_on(self) -> None:
        self._blocks = bytearray(len(self._blocks))
        self._plugged = 0

    def save(self) -> State:
        return _SCHEMA.make(
            addr=self._addr, block=self._block, requested=self._requested, plugged=bytes(self._blocks)
        )  # fmt: skip

    def restore(self, state: State) -> None:
        payload = _SCHEMA.read(state, self.name)
        blocks = payload["plugged"]
        if (payload["addr"], payload["block"], len(blocks)) != (self._addr, self._block, len(self._blocks)):
            raise mismatch(
                self.name,
                f"{len(blocks)} blocks of {payload['block']:#x} bytes at {payload['addr']:#x}, not "
                f"{len(self._blocks)} of {self._block:#x} at {self._addr:#x}",
            )
        requested = payload["requested"]
        on = blocks.count(1)
        if on + blocks.count(0) != len(blocks) or requested % self._block or requested > self._size:
            raise mismatch(self.name, "its blocks are neither plugged nor unplugged, or more than there are")
        self._blocks = bytearray(blocks)
        self._plugged = on * self._block
        self._requested = requested

    # -- the host's side -------------------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        """Request that the guest have *size* bytes in addition to its initial ones.

        It does that in its own time, as far as possible: see ``plugged`` in :meth:`stats`. To shrink, a guest returns
        what it can.

        :raises ConfigError: not a multiple of a block, or more than the machine was configured with
        """
        if size % self._block or not 0 <= size <= self._size:
            raise ConfigError(
                f"{size} bytes of memory added to those of the machine's start: not 0 to {self._size} in steps of "
                f"{self._block}",
                code="hotplug-memory-size",
                hint=f"a multiple of {self._block >> 20} MiB; how much may be added is set when the machine is made",
            )
        self._requested = size
        self.config_changed()

    def stats(self) -> dict[str, int]:
        """Bytes that the guest should have (``requested``) and has (``plugged``) in addition to its initial ones;
        counts of requests that ``plugs`` and ``unplugs`` blocks, and of ``refused`` ones."""
        return {"requested": self._requested, "plugged": self._plugged, **self._counts}
