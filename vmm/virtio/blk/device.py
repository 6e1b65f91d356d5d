"""The block device (virtio 1.2, 5.2): a raw image file or a host block device.  The data plane is
``blk.c``."""

from __future__ import annotations

import posix
import struct

from vmm import report
from vmm.errors import ConfigError, HostError
from vmm.native import ffi, lib
from vmm.saveable import Schema, State, mismatch
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice
from vmm.virtio.image import BLOCK, OVERLAY_BITS, Image, Overlay
from vmm.virtio.limit import Limit
from vmm.virtio.workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

    from vmm.virtio.blk import DiskConfig
    from vmm.virtio.device import DeviceContext
    from vmm.virtio.image import Opener

# 5.2.3 Block Device: Feature bits
BLK_F_SIZE_MAX = 1 << 1
BLK_F_SEG_MAX = 1 << 2
BLK_F_GEOMETRY = 1 << 4
BLK_F_RO = 1 << 5
BLK_F_BLK_SIZE = 1 << 6
BLK_F_FLUSH = 1 << 9
BLK_F_TOPOLOGY = 1 << 10
BLK_F_CONFIG_WCE = 1 << 11
BLK_F_MQ = 1 << 12
BLK_F_DISCARD = 1 << 13
BLK_F_WRITE_ZEROES = 1 << 14
BLK_F_LIFETIME = 1 << 15
BLK_F_SECURE_ERASE = 1 << 16

# 5.2.4 Block Device: Device configuration layout
BLK_CONFIG_FORMAT = "<QIIHBBIBBHIBxHIIIIIB3xIII"
"""For :mod:`struct`: capacity (in sectors); size_max; seg_max; geometry (cylinders, heads, sectors);
blk_size; topology (physical_block_exp, alignment_offset, min_io_size, opt_io_size); writeback; num_queues;
max_discard_sectors, max_discard_seg, discard_sector_alignment; max_write_zeroes_sectors,
max_write_zeroes_seg, write_zeroes_may_unmap; max_secure_erase_sectors, max_secure_erase_seg,
secure_erase_sector_alignment."""
BLK_CONFIG_SIZE = 72
BLK_CONFIG_WRITEBACK = 32
"""Offset of the one field that a driver may write."""

# 5.2.6 Block Device: Device Operation
SECTOR = 512
BLK_T_IN = 0
BLK_T_OUT = 1
BLK_T_FLUSH = 4
BLK_T_GET_ID = 8
BLK_T_GET_LIFETIME = 10
BLK_T_DISCARD = 11
BLK_T_WRITE_ZEROES = 13
BLK_T_SECURE_ERASE = 14
BLK_S_OK = 0
BLK_S_IOERR = 1
BLK_S_UNSUPP = 2
BLK_HEADER_SIZE = 16
BLK_ID_SIZE = 20
BLK_RANGE_SIZE = 16
BLK_RANGE_F_UNMAP = 1

QUEUE_SIZE = 256
SEG_MAX = QUEUE_SIZE - 2
"""Data segments of one request: with its header and status it fits a queue even without indirect
descriptors."""
MAX_QUEUES = 4
"""The most queues by default: one per vCPU up to here."""
MAX_DISCARD_SECTORS = 1 << 21
MAX_DISCARD_SEGMENTS = 64

_BLK_STATS = (
    "reads", "writes", "flushes", "discards", "write_zeroes", "get_ids", "unsupported", "errors",
    "read_bytes", "write_bytes", "last_errno", "uring",
)  # fmt: skip
_SCHEMA = Schema("virtio-blk", 1, {"writeback": "bool", "capacity": "u64"})
"""``capacity`` in sectors, as the driver has read it; the image must be at least as long."""


_spare: Any = ffi.NULL


def keep_rings(queues: int) -> None:
    """Make the io_urings for disks that are plugged in later, for a process that cannot make any then. Disks whose
    queues find none left use blocking calls."""
    global _spare
    if _spare == ffi.NULL:
        _spare = lib.blk_rings_new(queues, QUEUE_SIZE)


class DiskFiles:
    """The files of a disk: opened, locked and checked.

    :ivar image: the image
    :ivar overlay: the overlay, or None
    :ivar cached: reads of the image come from the host's page cache
    :ivar in_memory: ``blk_in_memory()`` of the image; 0: not checked yet
    """

    def __init__(self, image: Image, overlay: Overlay | None, *, cached: bool, in_memory: int = 0) -> None:
        self.image = image
        self.overlay = overlay
        self.cached = cached
        self.in_memory = in_memory

    @classmethod
    def open(cls, config: DiskConfig, opener: Opener = posix.open) -> Self:
        """
        :param opener: of the image
        :raises ConfigError: a file is missing, locked, of the wrong kind or size, or must not be opened
        :raises HostError: the host cannot make the overlay
        """
        overlaid = config.has_overlay
        image = Image(config.path, read_only=config.read_only or overlaid, direct=config.direct, opener=opener)
        try:
            overlay = Overlay(config.overlay, image) if overlaid else None
            return cls(image, overlay, cached=bool(lib.file_is_cached(image.fd)))
        except BaseException:
            image.close()
            raise

    @classmethod
    def given(cls, config: DiskConfig, fds: list[int], about: dict[str, Any]) -> Self:
        """The files that another process has opened.

        :param fds: their descriptors, as :attr:`fds` of its object; removed from the list and closed with this one
        :param about: :attr:`about` of its object
        """
        image = Image.given(config.path, fds.pop(0), about["alignment"])
        overlay = Overlay.given(config.overlay, image, fds.pop(0)) if config.has_overlay else None
        return cls(image, overlay, cached=about["cached"], in_memory=about["in_memory"])

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors."""
        return (self.image.fd,) if self.overlay is None else (self.image.fd, self.overlay.fd)

    @property
    def about(self) -> dict[str, Any]:
        """Further values for the other process, as JSON.

        :raises HostError: the host does not report it
        """
        in_memory = lib.blk_in_memory(self.image.fd)
        if in_memory < 0:
            raise HostError(f"disk {self.image.path}: {posix.strerror(-in_memory)}", code="disk-native")
        return {"alignment": self.image.alignment, "cached": self.cached, "in_memory": in_memory}

    def close(self, *, unlock: bool = True) -> None:
        """Close them.  A second call does nothing.

        :param unlock: False: another process has them open and locked too
        """
        if self.overlay is not None:
            self.overlay.close(unlock=unlock)
        self.image.close(unlock=unlock)


class Blk(VirtioDevice):
    """A disk. The image is always raw: its content is never interpreted.

    See :class:`~vmm.virtio.image.Image` for how it is opened and locked.

    :param cpus: of the machine; sets the number of queues unless *config* does
    :param io_uring: by default where it is faster; True for everything, False for nothing (as on hosts without it)
    :param files: its files, owned by this object from now on; None: it opens those of *config*
    :raises ConfigError: the file is missing, locked, of the wrong kind or size, or must not be opened
    :raises HostError: the host is out of memory
    """

    device_id = spec.ID_BLOCK
    thread_name = "blk-"
    saving = _SCHEMA

    def __init__(
        self, config: DiskConfig, *, cpus: int = 1, io_uring: bool | None = None, files: DiskFiles | None = None
    ) -> None:
        self.path = config.path
        self.name = f"disk {config.path}"
        self.read_only = config.read_only
        self._initial_writeback = self._writeback = config.cache == "writeback"
        self._features = 0
        hint = "see the limits on threads and locked memory (ulimit -u, ulimit -l)"
        self._workers = Workers(self, "disk-worker", hint)
        self._reported: set[int] = set()
        self._blk: Any = None
        self.cow = config.cow
        self._native_overlay: Any = ffi.NULL
        queues = config.queues or min(cpus, MAX_QUEUES)
        self.queue_sizes = (QUEUE_SIZE,) * queues
        self.features = BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_FLUSH | BLK_F_TOPOLOGY
        if queues > 1:
            self.features |= BLK_F_MQ
        if config.read_only:
            self.features |= BLK_F_RO
        else:
            self.features |= BLK_F_CONFIG_WCE | BLK_F_DISCARD | BLK_F_WRITE_ZEROES
        self._limit = Limit(config.limit)
        files = DiskFiles.open(config) if files is None else files
        self._image, self.overlay = files.image, files.overlay
        self.pins_memory = config.direct or not files.cached
        try:
            self.capacity = self._image.sectors()
            if self.overlay is not None:
                self._make_native_overlay(self.overlay)
            self._make_native(config, io_uring, files.in_memory)
        except BaseException:
            self.close()
            raise

    def _make_native_overlay(self, overlay: Overlay) -> None:
        error = ffi.new("int *")
        made = lib.blk_overlay_new(overlay.fd, OVERLAY_BITS, overlay.data_at, overlay.size, error)
        if made == ffi.NULL:
            text = posix.strerror(-error[0])
            raise HostError(f"overlay of {self.path}: {text}", code="disk-native", errno=-error[0])
        self._native_overlay = made

    def _make_native(self, config: DiskConfig, io_uring: bool | None, in_memory: int) -> None:
        native = ffi.new("struct blk_config *")
        native.fd = self._image.fd
        native.in_memory = in_memory
        native.flags = (
            (lib.BLK_RO if config.read_only else lib.BLK_DISCARD | lib.BLK_WRITE_ZEROES)
            | (lib.BLK_DIRECT if config.direct else 0)
            | (0 if io_uring is None else lib.BLK_URING if io_uring else lib.BLK_NO_URING)
        )
        native.capacity = self.capacity
        native.seg_max = SEG_MAX
        native.max_discard_sectors = MAX_DISCARD_SECTORS
        native.max_discard_seg = MAX_DISCARD_SEGMENTS
        native.alignment = self._image.alignment
        native.serial = config.serial.encode("ascii").ljust(BLK_ID_SIZE, b"\0")
        native.limit = self._limit.native
        native.overlay = self._native_overlay
        native.queues, native.queue_size = len(self.queue_sizes), QUEUE_SIZE
        native.rings = _spare
        error = ffi.new("int *")
        blk = lib.blk_new(native, error)
        if blk == ffi.NULL:
            raise HostError(f"{self.name}: {posix.strerror(-error[0])}", code="disk-native", errno=-error[0])
        self._blk = blk

    @property
    def image_fd(self) -> int:
        """The descriptor of the image, owned by this object."""
        return self._image.fd

    @property
    def overlay_fd(self) -> int:
        """The descriptor of the overlay, owned by this object; -1: it has none."""
        return -1 if self.overlay is None else self.overlay.fd

    def overlay_bits(self) -> memoryview:
        """The blocks of the overlay, a bit for each, as it is written to its file."""
        assert self.overlay is not None
        size = self.overlay.data_at - OVERLAY_BITS
        return memoryview(ffi.buffer(lib.blk_overlay_bits(self._native_overlay), size))

    def overlay_ranges(self) -> Iterator[tuple[int, int]]:
        """The overlay's parts of the disk, in bytes, half-open. The disk does not run."""
        assert self.overlay is not None
        at, end = 0, self.overlay.size
        while True:
            start = lib.blk_overlay_next(self._native_overlay, at, 1)
            if start * BLOCK >= end:
                return
            at = lib.blk_overlay_next(self._native_overlay, start, 0)
            yield start * BLOCK, min(at * BLOCK, end)

    # -- what the driver sees --------------------------------------------------------------------------------

    def read_config(self) -> bytes:
        writable = not self.read_only
        return struct.pack(
            BLK_CONFIG_FORMAT,
            self.capacity,
            0,  # size_max, not offered: a segment may be of any size
            SEG_MAX,
            *(0, 0, 0),  # geometry, not offered
            SECTOR,
            (BLOCK // SECTOR).bit_length() - 1,
            0,  # alignment_offset
            BLOCK // SECTOR,
            0,  # opt_io_size: no preference
            self._writeback,
            len(self.queue_sizes) if self.features & BLK_F_MQ else 0,
            *(MAX_DISCARD_SECTORS * writable, MAX_DISCARD_SEGMENTS * writable),
            BLOCK // SECTOR * writable,
            *(MAX_DISCARD_SECTORS * writable, MAX_DISCARD_SEGMENTS * writable),
            writable,  # write_zeroes_may_unmap
            *(0, 0, 0),  # secure erase, not offered
        )

    def write_config(self, offset: int, data: bytes) -> None:
        """Only the cache mode can be written, and only if CONFIG_WCE was negotiated (5.2.5)."""
        if offset != BLK_CONFIG_WRITEBACK or len(data) != 1 or data[0] > 1:
            return
        if not self._features & BLK_F_CONFIG_WCE:
            return
        # Without FLUSH nothing would ever get a cached write to the disk
        self._set_writeback(bool(data[0]) and bool(self._features & BLK_F_FLUSH))

    def _set_writeback(self, writeback: bool) -> None:
        lib.blk_set_writeback(self._blk, int(writeback))
        if self._writeback and not writeback:
            # What completed in writeback mode may still be in the host's cache; now it must not be
            if self.overlay is not None:
                self._report(-lib.blk_overlay_flush(self._native_overlay))
                self._writeback = False
                return
            try:
                posix.fdatasync(self._image.fd)
            except OSError as error:
                self._report(error.errno or 0)
        self._writeback = writeback

    def negotiate(self, features: int) -> bool:
        self._features = features
        # 5.2.6.2: a driver that cannot flush gets every write on the disk before it completes
        self._set_writeback(self._initial_writeback and bool(features & BLK_F_FLUSH))
        return True

    def activate(self, context: DeviceContext) -> None:
        for queue in context.queues.values():
            self._workers.start(lib.blk_start, self._blk, queue, context.event.fd)

    def check(self) -> None:
        """Report errors of the host's disk, and detect workers that stopped.

        :raises GuestError: the guest broke a ring
        :raises HostError: a worker cannot continue
        """
        self._report(self._native_stats().last_errno)
        self._workers.check()

    def stop(self) -> None:
        self._workers.stop()

    def hold(self) -> bool:
        self._workers.hold()
        return True

    def spares(self) -> list[Any]:
        return self._workers.spares()

    def go_on(self) -> None:
        self._workers.go_on()

    def reset(self) -> None:
        self._features = 0
        self._writeback = self._initial_writeback

    def save(self) -> State:
        return _SCHEMA.make(writeback=self._writeback, capacity=self.capacity)

    def restore(self, state: State) -> None:
        payload = _SCHEMA.read(state, self.name)
        if payload["capacity"] != self.capacity:
            raise mismatch(self.name, f"it is of a disk of {payload['capacity']} sectors, not {self.capacity}")
        self._set_writeback(payload["writeback"])

    # -- the host's side -------------------------------------------------------------------------------------

    def resize(self) -> None:
        """Read the size of the file again and report it to the driver. The caller has changed it.

        :raises ConfigError: an invalid size for a disk, or it has an overlay; nothing was changed
        """
        if self.overlay is not None:
            raise ConfigError(f"{self.name}: a disk with an overlay keeps its size", code="disk-size")
        capacity = self._image.sectors()
        if capacity != self.capacity:
            lib.blk_set_capacity(self._blk, capacity)
            self.capacity = capacity
            self.config_changed()

    def stats(self) -> dict[str, int]:
        """Counters since the disk was opened: requests by type, bytes, errors, and kicks, chains, irqs and wakeups of
        the workers; ``uring`` is 1 if io_uring is in use; ``limit_waits`` counts waits of a queue for its limit."""
        native = self._native_stats()
        return {
            **{name: int(getattr(native, name)) for name in _BLK_STATS},
            "limit_waits": self._limit.waits(),
            **self._workers.stats(),
        }

    def _native_stats(self) -> Any:
        native = ffi.new("struct blk_stats *")
        if self._blk is not None:
            lib.blk_get_stats(self._blk, native)
        return native

    def _report(self, number: int) -> None:
        """Once for each errno: a full disk fails every write."""
        if number and number not in self._reported:
            self._reported.add(number)
            text = f"{self.name}: {posix.strerror(number)}; the guest sees I/O errors (reported once)"
            report.error(__name__, text)

    def close(self) -> None:
        self.stop()
        if self._blk is not None:
            self._report(self._native_stats().last_errno)
            lib.blk_free(self._blk)
            self._blk = None
        if self._native_overlay != ffi.NULL:
            if self.overlay is not None and self.overlay.path:
                self._report(-lib.blk_overlay_flush(self._native_overlay))
            lib.blk_overlay_free(self._native_overlay)
            self._native_overlay = ffi.NULL
        if self.overlay is not None:
            self.overlay.close()
        self._limit.close()
        self._image.close()
