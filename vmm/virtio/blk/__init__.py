"""virtio-blk: disks (virtio 1.2, 5.2): its record, and what users type for it."""

from __future__ import annotations

from vmm.config.device import DeviceConfig
from vmm.config.limit import parse_limit
from vmm.config.options import Key, Syntax, number, word
from vmm.errors import ConfigError
from vmm.faststart.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.config.device import Opening
    from vmm.config.limit import LimitConfig
    from vmm.virtio.device import VirtioDevice

CACHE_MODES = ("writeback", "writethrough")
SYNTAX = Syntax(
    "disk",
    "a further disk image or block device; may be repeated",
    (
        Key("ro", "", "the guest cannot write", "read_only"),
        Key("serial", "TEXT", "what the guest has in /sys/block/vda/serial"),
        Key("direct", "", "bypass the host's page cache"),
        Key("cache", "|".join(CACHE_MODES), "writethrough: a write is on the disk before it completes", convert=word),
        Key("queues", "N", "request queues, each with a thread (default: one per vCPU, at most 4)", convert=number),
        Key("bps", "BYTES[:BURST]", "no more a second", convert=word),
        Key("iops", "REQUESTS[:BURST]", "no more a second", convert=word),
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
    """

    path: str
    read_only: bool = False
    serial: str = ""
    direct: bool = False
    cache: str = "writeback"
    queues: int = 0
    limit: LimitConfig | None = None

    def __post_init__(self) -> None:
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

    @classmethod
    def parse(cls, text: str, flag: str = "--disk") -> DiskConfig:
        """From :data:`SYNTAX`.

        :raises ConfigError: an option that is not known, or a bad value
        """
        values = SYNTAX.parse(text, flag)
        limit = parse_limit(values.pop("bps", ""), values.pop("iops", ""), f"{flag} {text!r}")
        return cls(values.pop("first"), limit=limit, **values)

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
