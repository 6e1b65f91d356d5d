"""A disk: a record, and what users type for it."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.config.limit import LimitConfig

CACHE_MODES = ("writeback", "writethrough")


@dataclass(frozen=True)
class DiskConfig:
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
        """From ``FILE[,ro][,serial=S][,direct][,cache=writeback|writethrough][,queues=N][,bps=R[:B]][,iops=R[:B]]``;
        ``,,`` is a comma of FILE.

        :raises ConfigError: an option that is not known, or a bad value
        """
        path, *options = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
        if not path:
            raise ConfigError(f"{flag} {text!r}: no file is named", code="disk-syntax", hint=f"{flag} FILE[,ro]")
        values: dict[str, Any] = {}
        limits = {"bps": "", "iops": ""}
        for option in options:
            key, equals, value = option.partition("=")
            if key in ("ro", "direct") and not equals:
                values["read_only" if key == "ro" else key] = True
            elif key in ("serial", "cache") and equals:
                values[key] = value
            elif key == "queues" and value.isascii() and value.isdigit():
                values[key] = int(value)
            elif key in limits and value:
                limits[key] = value
            else:
                raise ConfigError(
                    f"{flag} {text!r}: option {option!r} is not known",
                    code="disk-syntax",
                    hint="options are ro, direct, serial=TEXT, cache=writeback|writethrough, queues=N, "
                    "bps=RATE[:BURST], iops=RATE[:BURST]; a comma in the file name is written twice",
                )
        if any(limits.values()):
            from vmm.config.limit import parse_limit

            values["limit"] = parse_limit(limits["bps"], limits["iops"], f"{flag} {text!r}")
        return cls(path, **values)
