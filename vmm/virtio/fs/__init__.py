"""virtio-fs: directories of the host (virtio 1.2, 5.11): its record, and its text form."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.options.sizes import GIB, MIB
from vmm.options.syntax import Key, Syntax, number, size, word
from vmm.virtio.device_config import DeviceConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.device_config import Opening
    from vmm.virtio.fs.device import Fs

MAX_DAX = 256 * GIB
SHARE_ISOLATIONS = ("thread", "process")
SHARE_CACHES = ("none", "auto", "always")
SHARE_KEEPERS = ("host", "guest")
MAX_TAG = 36
"""Bytes of a share's tag (virtio 1.2, 5.11.4)."""
MAX_SOLE = 31
"""Bytes of ``fs_config.sole`` in C without its end."""
MAX_MAPS = 8
NOBODY = 65534


@dataclass(frozen=True)
class ShareConfig(DeviceConfig):
    """A directory of the host that the guest mounts with ``mount -t virtiofs TAG /where``.

    :ivar tag: its name for the guest, up to 36 bytes; empty: ``share``, ``share1``, ... by its place
    :ivar cache: what the guest may cache: ``none``; ``auto``: names and attributes for a second, and programs that have
        not changed since it ran them; ``always``: everything, for directories that nobody else changes
    :ivar writeback: the guest may delay writes and combine them; not with ``cache=none``
    :ivar acl: POSIX access control lists
    :ivar maps: ``(guest, host, count)``: maps that many user and group ids, from the first one on; empty: no mapping
    :ivar group_maps: the same for groups alone; empty: as ``maps``
    :ivar unmapped: the id that the guest sees where no map has the host's, as in a user namespace
    :ivar queues: number of request queues, each with a thread, or 0: one per vCPU, at most 4
    :ivar isolation: the server: ``process``: a child that can reach the directory and nothing else (guest RAM is then
        shared memory; a caller that waits for all its children sees it end too); ``thread``: threads of this process,
        for one that may have no children
    :ivar dax: bytes of guest address space, a multiple of 2 MiB, in which the host's page cache is mapped for a guest
        that mounts with ``-o dax``; 0: none
    :ivar locks: where flock() and fcntl() locks are kept: ``host``: they exclude other guests and the host, but Linux
        cannot interrupt a process that waits for one, not even to kill it; ``guest``: they hold in the guest only
    :ivar handles: open known files by file handle, for which the server keeps CAP_DAC_READ_SEARCH: the guest keeps
        using files that the host renames. An attacker who takes over such a server reaches every file of the file
        system
    :ivar sole: the name of mount points in the directory whose files nobody else changes, as the roots of containers;
        empty: none. A guest with this project's kernel reads cached data of them without opening them here, until size
        or times change, which it checks once a second
    """

    path: str
    tag: str = ""
    read_only: bool = False
    cache: str = "auto"
    writeback: bool = False
    acl: bool = False
    maps: tuple[tuple[int, int, int], ...] = ()
    group_maps: tuple[tuple[int, int, int], ...] = ()
    unmapped: int = NOBODY
    queues: int = 0
    isolation: str = "process"
    dax: int = 0
    locks: str = "host"
    permissions: str = "host"
    handles: bool = False
    sole: str = ""

    many_files = True
    takes_memory_on_demand = True

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
                hint="omit one of the two",
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
        if not self.sole.isprintable() or "/" in self.sole or len(self.sole.encode()) > MAX_SOLE:
            raise ConfigError(
                f"share {self.path}: sole={self.sole!r} is not a name of up to {MAX_SOLE} bytes",
                code="share-sole",
                hint="sole=rootfs is for mounts like DIR/ID/rootfs",
            )
        every = (*self.maps, *self.group_maps)
        if max(len(self.maps), len(self.group_maps)) > MAX_MAPS or any(not _is_id_map(*entry) for entry in every):
            raise ConfigError(
                f"share {self.path}: ids are mapped by up to {MAX_MAPS} of guest:host:count, each id below 4294967295",
                code="share-map",
                hint="map=0:1000:1 makes the guest's root the host's user 1000",
            )

    @classmethod
    def parse(cls, text: str, flag: str = "--share") -> ShareConfig:
        """From :data:`SYNTAX`.

        :raises ConfigError: an unknown option, or an invalid value
        """
        values = SYNTAX.parse(text, flag)
        return cls(values.pop("first"), maps=tuple(values.pop("maps", ())), **values)

    @property
    def shares_memory(self) -> bool:
        """The process that serves it maps guest RAM."""
        return self.isolation == "process"

    @property
    def opens_ahead(self) -> bool:  # type: ignore[override]
        return self.isolation == "process"

    @property
    def opens_files(self) -> str:
        return "a share with isolation=thread opens files" if self.isolation == "thread" else ""

    @property
    def calls(self) -> int:
        from vmm.native import lib

        return int(lib.SECCOMP_DAX | lib.SECCOMP_CHILD)

    def open(self, opening: Opening) -> VirtioDevice:
        kind: type[Fs]
        extra: dict[str, Any] = {}
        if self.isolation == "process":
            from vmm.virtio.fs.process import FsProcess as kind

            extra["on_demand"] = opening.on_demand
        else:
            from vmm.virtio.fs.device import Fs as kind

        device = kind(self, cpus=opening.cpus, node_bytes=node_bytes(opening.ram), **extra)
        device.thread_name = f"fs-{device.tag[:8]}-"
        return device


def node_bytes(ram: int) -> int:
    """The server's memory for the files that a guest with that much RAM knows: Linux uses about a KiB for each, and has
    no room for more."""
    return max(ram // 4, 64 * MIB)


def _id_map(text: str, _what: str) -> tuple[int, ...]:
    numbers = tuple(number(part, "") for part in text.split(":"))
    if len(numbers) != 3:
        raise ValueError(text)
    return numbers


SYNTAX = Syntax(
    "share",
    "a directory for the guest to mount; may be repeated",
    (
        Key("tag", "TAG", "what the guest mounts (default: share, share1, ...)", convert=word),
        Key("ro", "", "the guest cannot write", "read_only"),
        Key("cache", "|".join(SHARE_CACHES), "what the guest may cache", convert=word),
        Key("writeback", "", "the guest may delay writes"),
        Key("acl", "", "POSIX access control lists"),
        Key("map", "GUEST:HOST:COUNT", "maps user and group ids to others on the host", "maps", _id_map, many=True),
        Key("queues", "N", "request queues, each with a thread (default: one per vCPU, at most 4)", convert=number),
        Key("isolation", "process|thread", "the server: an isolated process, or threads of this one", convert=word),
        Key("dax", "SIZE", "a window for mount -o dax, which maps the host's page cache", convert=size),
        Key(
            "locks",
            "host|guest",
            "guest: only this guest sees them; a process that waits for one can be killed",
            convert=word,
        ),
        Key("permissions", "host|guest", "guest: the host does not check again, for user namespaces", convert=word),
        Key("sole", "NAME", "only the guest writes to mounts of this name, so it may cache more", convert=word),
        Key("handles", "", "open files by handle: follows renames of the host; weaker isolation"),
    ),
    first="DIR",
    of="directory",
)


def _is_id_map(guest: int, host: int, count: int) -> bool:
    return guest >= 0 and host >= 0 and count > 0 and guest + count < 1 << 32 and host + count < 1 << 32
