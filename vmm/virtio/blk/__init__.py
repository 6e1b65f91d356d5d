"""virtio-blk: disks (virtio 1.2, 5.2): its record, and its text form."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.options.limit import parse_limit
from vmm.options.syntax import Key, Syntax, number, word
from vmm.virtio.device_config import DeviceConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.options.limit import LimitConfig
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.device_config import Opening

CACHE_MODES = ("writeback", "writethrough")
AUTO, REFLINK, COPY, OVERLAY = "auto", "reflink", "copy", "overlay"
COW_MODES = (AUTO, REFLINK, COPY, OVERLAY)
SYNTAX = Syntax(
    "disk",
    "a further disk image or block device; may be repeated",
    (
        Key("ro", "", "the guest cannot write", "read_only"),
        Key("serial", "TEXT", "serial number, in the guest's /sys/block/vda/serial"),
        Key("direct", "", "bypass the host's page cache"),
        Key("cache", "|".join(CACHE_MODES), "writethrough: a write is on the disk before it completes", convert=word),
        Key("queues", "N", "request queues, each with a thread (default: one per vCPU, at most 4)", convert=number),
        Key("bps", "BYTES[:BURST]", "no more a second", convert=word),
        Key("iops", "REQUESTS[:BURST]", "no more a second", convert=word),
        Key(
            "cow",
            "|".join(COW_MODES),
            "how clones and snapshots copy the disk: shared blocks (reflink), a copy, or what the file system supports "
            "(auto); overlay: the image is never written, the guest's writes go to another file",
            convert=word,
        ),
        Key("overlay", "FILE", "with cow=overlay: that file, which is kept (default: it ends with the machine)"),
    ),
    first="FILE",
    of="file",
)


@dataclass(frozen=True)
class DiskConfig(DeviceConfig):
    """A virtio-blk disk: a raw image file or a block device.

    :ivar serial: up to 20 ASCII bytes, seen by the guest in ``/sys/block/vda/serial``
    :ivar direct: bypass the host's page cache (O_DIRECT)
    :ivar cache: ``writeback``, or ``writethrough``: every write is on the disk before it completes
    :ivar queues: number of request queues, or 0: one per vCPU, at most 4
    :ivar limit: bytes and requests a second, or None
    :ivar cow: how forks, snapshots and restores copy the disk: ``reflink``: a file that shares its blocks until one is
        written; ``copy``; ``auto``: the first if the file system supports it, else the second. ``overlay``: *path* is
        only read, and the guest's writes go to another file. Only that file is copied by a fork, and a restored machine
        has an overlay over the snapshot's image
    :ivar overlay: with ``overlay``, that file, created if it is missing, or empty: a nameless file that ends with the
        machine
    """

    path: str
    read_only: bool = False
    serial: str = ""
    direct: bool = False
    cache: str = "writeback"
    queues: int = 0
    limit: LimitConfig | None = None
    cow: str = AUTO
    overlay: str = ""

    def __post_init__(self) -> None:
        self._check_cow()
        if self.cache not in CACHE_MODES:
            raise ConfigError(
                f"disk {self.path}: cache={self.cache!r} is not one of {', '.join(CACHE_MODES)}", code="disk-cache"
            )
        if not self.serial.isascii() or not (self.serial.isprintable()) or len(self.serial) > 20:
            raise ConfigError(
                f"disk {self.path}: serial {self.serial!r} is not up to 20 printable ASCII characters",
                code="disk-serial",
            )
        if not 0 <= self.queues <= 64:
            raise ConfigError(f"disk {self.path}: {self.queues} queues, not 0 to 64", code="disk-queues")

    def _check_cow(self) -> None:
        if self.cow not in COW_MODES:
            raise ConfigError(
                f"disk {self.path}: cow={self.cow!r} is not one of {', '.join(COW_MODES)}", code="disk-cow"
            )
        if self.overlay and not self.has_overlay:
            raise ConfigError(
                f"disk {self.path}: overlay={self.overlay} is of use with cow=overlay only", code="disk-cow"
            )
        if self.has_overlay and (self.read_only or self.direct):
            what = "a read-only disk" if self.read_only else "a disk with direct I/O"
            raise ConfigError(f"disk {self.path}: {what} has no overlay", code="disk-cow")

    @classmethod
    def parse(cls, text: str, flag: str = "--disk") -> DiskConfig:
        """From :data:`SYNTAX`.

        :raises ConfigError: an unknown option, or an invalid value
        """
        values = SYNTAX.parse(text, flag)
        limit = parse_limit(values.pop("bps", ""), values.pop("iops", ""), f"{flag} {text!r}")
        return cls(values.pop("first"), limit=limit, **values)

    @property
    def has_overlay(self) -> bool:
        """Its image is only read."""
        return self.cow == OVERLAY

    @property
    def calls(self) -> int:
        from vmm.native import lib

        return int(lib.SECCOMP_BLK | lib.SECCOMP_DISK)

    def open(self, opening: Opening) -> VirtioDevice:
        from vmm.virtio.blk.device import Blk

        device = Blk(self, cpus=opening.cpus)
        device.thread_name = f"blk-{disk_letters(opening.place)}-"
        return device


def disk_letters(index: int) -> str:
    """Linux's name of a disk: vda, ..., vdz, vdaa (``virtblk_name_format()`` in drivers/block/virtio_blk.c)."""
    name = ""
    while index >= 0:
        name = chr(ord("a") + index % 26) + name
        index = index // 26 - 1
    return f"vd{name}"
