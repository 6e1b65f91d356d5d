"""A shared directory: a record, and what users type for it."""

from __future__ import annotations

from vmm.config.sizes import GIB, MIB, parse_size
from vmm.errors import ConfigError
from vmm.faststart.record import dataclass

MAX_DAX = 256 * GIB
SHARE_ISOLATIONS = ("thread", "process")
SHARE_CACHES = ("none", "auto", "always")
SHARE_KEEPERS = ("host", "guest")
MAX_TAG = 36
"""Bytes of a share's tag (virtio 1.2, 5.11.4)."""


@dataclass(frozen=True)
class ShareConfig:
    """A directory of the host that the guest mounts with ``mount -t virtiofs TAG /where``.

    :ivar tag: what the guest knows it by, up to 36 bytes; empty: ``share``, ``share1``, ... by its place
    :ivar cache: what the guest may keep without asking: ``none``; ``auto``: names and attributes for a second;
        ``always``: everything, for directories that nobody else changes
    :ivar writeback: the guest may hold written data back and write it in larger pieces; not with ``cache=none``
    :ivar acl: POSIX access control lists
    :ivar maps: ``(guest, host, count)``: that many user and group ids, from the first one on; empty: they are the same
    :ivar queues: number of request queues, each with a thread, or 0: one per vCPU, at most 4
    :ivar isolation: who serves it: ``thread``: threads of this process; ``process``: a child that can reach the
        directory and nothing else (guest RAM is then shared memory)
    :ivar dax: bytes of guest address space, a multiple of 2 MiB, in which the host's page cache is mapped for a guest
        that mounts with ``-o dax``; 0: none
    :ivar locks: where flock() and fcntl() locks are kept: ``host``: they hold against other guests and the host, but
        Linux cannot interrupt who waits for one, not even to kill it; ``guest``: they hold in the guest only
    """

    path: str
    tag: str = ""
    read_only: bool = False
    cache: str = "auto"
    writeback: bool = False
    acl: bool = False
    maps: tuple[tuple[int, int, int], ...] = ()
    queues: int = 0
    isolation: str = "thread"
    dax: int = 0
    locks: str = "host"
    permissions: str = "host"

    def __post_init__(self) -> None:
        if self.cache not in SHARE_CACHES:
            raise ConfigError(
                f"share {self.path}: cache={self.cache!r} is not one of {', '.join(SHARE_CACHES)}",
                code="share-cache",
                hint="auto is right for most: the guest sees changes of the host after a second",
            )
        if self.writeback and self.cache == "none":
            raise ConfigError(
                f"share {self.path}: writeback needs a cache, which cache=none forbids",
                code="share-cache",
                hint="leave one of the two out",
            )
        if not self.tag.isprintable() or " " in self.tag or len(self.tag.encode()) > MAX_TAG:
            raise ConfigError(
                f"share {self.path}: tag {self.tag!r} is not up to {MAX_TAG} printable bytes without a space",
                code="share-tag",
                hint="the tag is what the guest mounts, for example tag=src",
            )
        if not 0 <= self.queues <= 64:
            raise ConfigError(f"share {self.path}: {self.queues} queues, not 0 to 64", code="share-queues")
        if not 0 <= self.dax <= MAX_DAX or self.dax % (2 * MIB):
            raise ConfigError(
                f"share {self.path}: a DAX window of {self.dax} bytes is not a multiple of 2 MiB up to 256 GiB",
                code="share-dax",
                hint="for example dax=1G; it costs address space, and memory only for pages without a file",
            )
        if self.isolation not in SHARE_ISOLATIONS:
            raise ConfigError(
                f"share {self.path}: isolation={self.isolation!r} is not one of {', '.join(SHARE_ISOLATIONS)}",
                code="share-isolation",
            )
        for name in ("locks", "permissions"):
            if getattr(self, name) not in SHARE_KEEPERS:
                raise ConfigError(
                    f"share {self.path}: {name}={getattr(self, name)!r} is not one of {', '.join(SHARE_KEEPERS)}",
                    code=f"share-{name}",
                )
        if len(self.maps) > 8 or any(not _is_id_map(*entry) for entry in self.maps):
            raise ConfigError(
                f"share {self.path}: ids are mapped by up to 8 of guest:host:count, each id below 4294967295",
                code="share-map",
                hint="map=0:1000:1 makes the guest's root the host's user 1000",
            )

    @classmethod
    def parse(cls, text: str, flag: str = "--share") -> ShareConfig:
        """From ``DIR[,tag=TAG][,ro][,cache=none|auto|always][,writeback][,acl][,map=GUEST:HOST:COUNT]...[,queues=N]
        [,isolation=process|thread][,dax=SIZE][,locks=host|guest][,permissions=host|guest]``; ``,,`` is a comma of DIR.
        Unless it says otherwise, a process serves.

        :raises ConfigError: an option that is not known, or a bad value
        """
        path, *options = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
        if not path:
            raise ConfigError(f"{flag} {text!r}: no directory is named", code="share-syntax", hint=f"{flag} DIR[,ro]")
        values: dict[str, str | bool | int] = {"isolation": "process"}
        maps: list[tuple[int, ...]] = []
        for option in options:
            key, equals, value = option.partition("=")
            if key in ("ro", "writeback", "acl") and not equals:
                values["read_only" if key == "ro" else key] = True
            elif key in ("tag", "cache", "isolation", "locks", "permissions") and value:
                values[key] = value
            elif key == "queues" and value.isascii() and value.isdigit():
                values[key] = int(value)
            elif key == "map" and [n.isascii() and n.isdigit() for n in value.split(":")] == [True] * 3:
                maps.append(tuple(map(int, value.split(":"))))
            elif key == "dax" and value:
                values[key] = parse_size(value, f"{flag} dax")
            else:
                raise ConfigError(
                    f"{flag} {text!r}: option {option!r} is not known",
                    code="share-syntax",
                    hint="options are tag=TAG, ro, cache=none|auto|always, writeback, acl, map=GUEST:HOST:COUNT, "
                    "queues=N, isolation=process|thread, dax=SIZE, locks=host|guest, permissions=host|guest; a comma "
                    "in the directory's name is written twice",
                )
        return cls(path, maps=tuple(maps), **values)  # type: ignore[arg-type]


def _is_id_map(guest: int, host: int, count: int) -> bool:
    return guest >= 0 and host >= 0 and count > 0 and guest + count < 1 << 32 and host + count < 1 << 32
