"""What a machine is made of: frozen records, and the parsing and checking of what users type."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.config_devices import BalloonConfig, PmemConfig
    from vmm.config_limit import LimitConfig
    from vmm.config_net import NetConfig

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_UNITS = {"": 1, "B": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}

MAX_CPUS = 32
MMIO, PCI = "mmio", "pci"
TRANSPORTS = (MMIO, PCI)
SPLIT, PACKED = "split", "packed"
VIRTQUEUES = (SPLIT, PACKED)
CACHE_MODES = ("writeback", "writethrough")
MAX_DAX = 256 * GIB
SHARE_ISOLATIONS = ("thread", "process")
SHARE_CACHES = ("none", "auto", "always")
SHARE_KEEPERS = ("host", "guest")
MAX_TAG = 36
"""Bytes of a share's tag (virtio 1.2, 5.11.4)."""
ENTRIES = ("auto", "pvh", "linux64")
VSOCK_BACKENDS = ("unix", "vhost")
CONSOLE_DEVICES = ("serial", "virtio")
CONSOLES = ("stdio", "pty", "file", "none", "fd")


def parse_size(text: str, what: str = "size") -> int:
    """Bytes from ``256M``, ``4G``, ``512K``, ``1073741824``; units are powers of 1024, ``iB`` may follow.

    :raises ConfigError: not such a number
    """
    number = text.strip().upper().removesuffix("IB") if text.strip().upper().endswith("IB") else text.strip().upper()
    unit = number[-1:] if number[-1:].isalpha() else ""
    digits = number[: len(number) - len(unit)]
    if not digits.isascii() or not digits.isdigit() or unit not in _UNITS or len(digits) > 20:
        raise ConfigError(f"{what} {text!r} is not a size", code="size-syntax", hint="for example 256M, 2G, 512K")
    return int(digits) * _UNITS[unit]


@dataclass(frozen=True)
class BootConfig:
    """What to boot.

    :ivar kernel: path of an ELF vmlinux or of a bzImage
    :ivar initrd: path of an initial ramdisk, or None
    :ivar cmdline: appended to the default command line
    :ivar entry: ``pvh``, ``linux64``, or ``auto``: PVH where the kernel has its note
    """

    kernel: str
    initrd: str | None = None
    cmdline: str = ""
    entry: str = "auto"

    def __post_init__(self) -> None:
        if self.entry not in ENTRIES:
            raise ConfigError(f"boot entry {self.entry!r}: not one of {', '.join(ENTRIES)}", code="boot-entry")


@dataclass(frozen=True)
class MemoryConfig:
    """Guest RAM: *size* in bytes, and see :class:`vmm.memory.GuestMemory`."""

    size: int = 256 * MIB
    huge_pages: str = "auto"
    prefault: bool = False
    shared: bool = False


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
            from vmm.config_limit import parse_limit

            values["limit"] = parse_limit(limits["bps"], limits["iops"], f"{flag} {text!r}")
        return cls(path, **values)


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


@dataclass(frozen=True)
class VsockConfig:
    """A virtio-vsock device.

    :ivar cid: the guest's context id, 3 to 4294967294.  With the ``unix`` backend only the guest itself sees it
    :ivar uds: path of the unix socket through which the host reaches the guest (see :mod:`vmm.virtio.vsock`);
        what a guest connects to is the socket ``<uds>_<port>``.  Empty with ``vhost``
    :ivar backend: ``unix``; or ``vhost``: the host's AF_VSOCK, through ``/dev/vhost-vsock``
    :ivar connections: so many at a time, both ways together, each with a descriptor of this process; ``unix`` only
    """

    cid: int = 3
    uds: str = ""
    backend: str = "unix"
    connections: int = 16384

    def __post_init__(self) -> None:
        if self.backend not in VSOCK_BACKENDS:
            raise ConfigError(
                f"vsock: backend={self.backend!r} is not one of {', '.join(VSOCK_BACKENDS)}", code="vsock-backend"
            )
        if not 3 <= self.cid < 0xFFFF_FFFF:
            raise ConfigError(f"vsock: cid {self.cid} is not 3 to 4294967294", code="vsock-cid")
        if not 1 <= self.connections <= 16384:
            raise ConfigError(f"vsock: connections={self.connections} is not 1 to 16384", code="vsock-connections")
        if (self.backend == "unix") != bool(self.uds):
            raise ConfigError(
                "vsock: backend=unix needs uds=PATH, and backend=vhost has none",
                code="vsock-uds",
                hint="for example --vsock cid=3,uds=/run/vm.sock",
            )

    @classmethod
    def parse(cls, text: str, flag: str = "--vsock") -> VsockConfig:
        """From ``cid=N,uds=PATH[,backend=unix|vhost]``; ``,,`` is a comma of PATH.

        :raises ConfigError: an option that is not known, or a bad value
        """
        values: dict[str, str | int] = {}
        for part in text.replace(",,", "\0").split(","):
            key, equals, value = part.replace("\0", ",").partition("=")
            if key in ("uds", "backend") and equals:
                values[key] = value
            elif key == "cid" and value.isascii() and value.isdigit() and len(value) < 20:
                values[key] = int(value)
            else:
                raise ConfigError(
                    f"{flag} {text!r}: {part!r} is not known",
                    code="vsock-syntax",
                    hint=f"{flag} cid=N,uds=PATH[,backend=unix|vhost]; a comma in PATH is written twice",
                )
        return cls(**values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ConsoleConfig:
    """Where the guest's console goes.

    :ivar kind: ``none``; ``fd``: the guest's bytes are written to *fd*, and what :meth:`Machine.console_input` is given
        is read by the guest; the command line's ``stdio``, ``pty`` and ``file`` are made of it
    :ivar drop: what a slow reader of *fd* does not take is dropped instead of holding the guest up
    :ivar device: ``serial``, the UART; or ``virtio``: the guest's ``hvc0``, many times faster, there once its driver
        is.  What a guest sends to the UART goes to *fd* all the same
    """

    kind: str = "none"
    fd: int = -1
    drop: bool = False
    device: str = "serial"

    def __post_init__(self) -> None:
        if self.device not in CONSOLE_DEVICES:
            raise ConfigError(
                f"console device {self.device!r}: not one of {', '.join(CONSOLE_DEVICES)}", code="console-device"
            )


@dataclass(frozen=True)
class MachineConfig:
    """A whole machine.

    :ivar rootfs: a disk that becomes ``/dev/vda`` and the root file system; or a directory that does, with the tag
        ``rootfs`` unless it has one; or None
    :ivar disks: further disks, in the order of their letters
    :ivar shares: directories that the guest may mount
    :ivar vsock: a virtio-vsock device, or None
    :ivar pmems: images that the guest has as memory, in the order of their numbers: ``/dev/pmem0``, ...
    :ivar balloon: a memory balloon, or None; not with hugetlb pages, which are reserved for as long as the machine is
    :ivar transport: how the guest finds its virtio devices: ``mmio``, or ``pci``, which every distribution's kernel has
    :ivar nets: network devices, in the order of their numbers
    :ivar virtqueues: the format of queues: ``split``; or ``packed``, for drivers that take it (Linux since 5.0)
    """

    boot: BootConfig
    memory: MemoryConfig = MemoryConfig()
    cpus: int = 1
    rootfs: DiskConfig | ShareConfig | None = None
    disks: tuple[DiskConfig, ...] = ()
    console: ConsoleConfig = ConsoleConfig()
    shares: tuple[ShareConfig, ...] = ()
    vsock: VsockConfig | None = None
    transport: str = MMIO
    nets: tuple[NetConfig, ...] = ()
    balloon: BalloonConfig | None = None
    pmems: tuple[PmemConfig, ...] = ()
    virtqueues: str = SPLIT

    def __post_init__(self) -> None:
        if self.virtqueues not in VIRTQUEUES:
            raise ConfigError(f"virtqueues {self.virtqueues!r}: not one of {', '.join(VIRTQUEUES)}", code="virtqueues")
        if self.transport not in TRANSPORTS:
            raise ConfigError(f"transport {self.transport!r}: not one of {', '.join(TRANSPORTS)}", code="transport")
        if not 1 <= self.cpus <= MAX_CPUS:
            raise ConfigError(f"{self.cpus} vCPUs: a machine has 1 to {MAX_CPUS}", code="cpus")
        if self.balloon is not None and self.memory.huge_pages == "hugetlb":
            raise ConfigError(
                "a balloon gives nothing back of hugetlb pages, which are reserved",
                code="balloon-hugetlb",
                hint="use huge pages auto or thp",
            )
        tags = [tag for tag, _ in self.tagged_shares()]
        for tag in tags:
            if tags.count(tag) > 1:
                raise ConfigError(
                    f"two shares have the tag {tag!r}", code="share-tag", hint="give each its own: ,tag=TAG"
                )

    def tagged_shares(self) -> list[tuple[str, ShareConfig]]:
        """All shares with their tags, a root file system first."""
        found = [(self.rootfs.tag or "rootfs", self.rootfs)] if isinstance(self.rootfs, ShareConfig) else []
        for index, share in enumerate(self.shares):
            found.append((share.tag or f"share{index or ''}", share))
        return found

    def shares_memory(self) -> bool:
        """Another process will map guest RAM: the user says so, or a share is served by one."""
        return self.memory.shared or any(share.isolation == "process" for _, share in self.tagged_shares())
