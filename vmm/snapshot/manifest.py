"""``manifest.json``: what a snapshot is of, and what a host must have to restore it.  See docs/snapshot-format.md."""

from __future__ import annotations

import json
import os
import stat

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.memory import HOLE_START, MAX_CONSTANT, PAGE
from vmm.snapshot.directory import MANIFEST, MEMORY, STATE
from vmm.snapshot.records import made, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 2
"""Changes when an older pyvmm cannot read what a newer one writes."""
_OLDEST = 1
"""The oldest format that is read: it has no :attr:`Manifest.constant`."""
_MOST = 1 << 20
"""Bytes of a manifest; it has some thousand."""
_MOST_LAYERS = 64


@dataclass(frozen=True)
class Cpu:
    """The host's processor: ``vendor_id``, ``model name`` of /proc/cpuinfo, and the CPUID that its guests see."""

    vendor: str
    model: str
    cpuid: str
    """SHA-256 of the leaves of vCPU 0, less those that say a frequency."""


@dataclass(frozen=True)
class FileState:
    """A file outside of the snapshot that the machine used.

    :ivar size: in bytes
    :ivar mtime_ns: when it was last changed
    """

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Disk:
    """A disk: ``file`` is the name of its copy in the snapshot, empty where ``image`` is read only and referred to."""

    image: FileState
    file: str
    read_only: bool


@dataclass(frozen=True)
class Device:
    """What ``state`` has of a device: its kind and the version of what was saved."""

    kind: str
    version: int


@dataclass(frozen=True)
class Manifest:
    """
    :ivar format: :data:`FORMAT` of the writer
    :ivar id: 32 hexadecimal digits, another for every snapshot
    :ivar base: path of the snapshot that this is a diff of, relative to this one's directory; or empty
    :ivar base_id: its :attr:`id`
    :ivar taken: when, ISO 8601 in UTC
    :ivar state_sha256: of the file ``state``
    :ivar memory_crc32: of the file ``memory``, see :func:`vmm.snapshot.memory_file.checksum`
    :ivar memory_size: bytes of RAM
    :ivar memory_bytes: bytes of RAM that ``memory`` holds
    :ivar config: the machine's configuration, as :func:`vmm.snapshot.records.plain` has it
    :ivar constant: guest physical addresses, half-open: the guest's kernel has its code and constants there
    """

    format: int
    id: str
    base: str
    base_id: str
    taken: str
    pyvmm: str
    host_kernel: str
    cpu: Cpu
    kernel: FileState
    state_sha256: str
    memory_crc32: int
    memory_size: int
    memory_bytes: int
    devices: tuple[Device, ...]
    disks: tuple[Disk, ...]
    config: dict[str, Any]
    constant: tuple[tuple[int, ...], ...] = ()

    def constant_ranges(self) -> list[tuple[int, int]]:
        """:attr:`constant` as offsets into RAM."""
        return [(start, end) for start, end in self.constant]

    def has_constant(self) -> bool:
        """They are ranges of whole pages of RAM below the hole for devices, few, and ascending."""
        at, most = 0, min(self.memory_size, HOLE_START)
        for each in self.constant:
            if len(each) != 2 or not at <= each[0] < each[1] <= most or (each[0] | each[1]) % PAGE:
                return False
            at = each[1]
        return len(self.constant) <= MAX_CONSTANT


_KINDS: dict[str, type] = {each.__name__: each for each in (Cpu, FileState, Disk, Device, Manifest)}


def file_state(path: str) -> FileState:
    """What the file or block device *path* is now.

    :raises ConfigError: it cannot be looked at
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", code="snapshot-file") from error
    try:
        return state_of_open(fd, path)
    finally:
        os.close(fd)


def state_of_open(fd: int, path: str) -> FileState:
    """The same of what is open as *fd*; *path* is how it was called."""
    return FileState(os.path.abspath(path), *size_and_change(fd))


def size_and_change(fd: int) -> tuple[int, int]:
    """Of an open file or block device: bytes, and when it was last changed in ns."""
    status = os.fstat(fd)
    size = status.st_size if stat.S_ISREG(status.st_mode) else os.lseek(fd, 0, os.SEEK_END)
    return size, status.st_mtime_ns


def write_manifest(path: str, manifest: Manifest) -> None:
    """Write the new file *path*."""
    with open(path, "x", encoding="utf-8") as file:
        json.dump(plain(manifest), file, indent=1)
        file.write("\n")


def read_manifest(folder: str) -> Manifest:
    """The manifest of the snapshot in *folder*.

    :raises ConfigError: there is none, or it is not one that this pyvmm reads
    """
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST + 1)
    except OSError as error:
        raise ConfigError(
            f"{folder} is no snapshot: {error.strerror}: {MANIFEST}",
            code="snapshot-none",
            hint="pyvmm snapshot makes one",
        ) from error
    if len(text) > _MOST:
        raise ConfigError(f"{path}: more than {_MOST} bytes", code="snapshot-format")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: no JSON: {error}", code="snapshot-format") from error
    number = value.get("format") if isinstance(value, dict) else None
    if type(number) is not int or not _OLDEST <= number <= FORMAT:
        raise ConfigError(
            f"{path}: format {number!r:.20}; this pyvmm reads formats {_OLDEST} to {FORMAT}",
            code="snapshot-version",
            hint="restore it with the version that the manifest names, or take it again",
        )
    manifest: Manifest = made(value, "Manifest", _KINDS, path)
    for disk in manifest.disks:
        if disk.file and os.path.basename(disk.file) != disk.file:
            raise ConfigError(f"{path}: {disk.file!r:.60} is no name of a file", code="snapshot-format")
    if not manifest.has_constant():
        raise ConfigError(f"{path}: its constant memory is none of RAM", code="snapshot-format")
    return manifest


def layers(folder: str) -> list[tuple[str, Manifest]]:
    """The snapshot in *folder* and those that it is a diff of, the full one first.

    :raises ConfigError: one is missing, is another than it was, or they go round in a circle
    """
    found = [(folder, read_manifest(folder))]
    while found[0][1].base:
        at, manifest = found[0]
        if len(found) > _MOST_LAYERS:
            raise ConfigError(f"{folder}: more than {_MOST_LAYERS} snapshots on each other", code="snapshot-base")
        base = os.path.normpath(os.path.join(at, manifest.base))
        below = read_manifest(base)
        if below.id != manifest.base_id or below.memory_size != manifest.memory_size:
            raise ConfigError(
                f"{at} is a diff of another snapshot than the one that is in {base} now",
                code="snapshot-base",
                hint="pyvmm snapshots merge makes a diff independent of its base, before that changes",
            )
        found.insert(0, (base, below))
    return found


def memory_files(chain: list[tuple[str, Manifest]]) -> list[str]:
    """Paths of the ``memory`` files of :func:`layers`.

    :raises ConfigError: one is not there or too short
    """
    paths = []
    for folder, manifest in chain:
        path = os.path.join(folder, MEMORY)
        try:
            size = os.stat(path).st_size
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", code="snapshot-file") from error
        if size != manifest.memory_size:
            raise ConfigError(f"{path}: {size} bytes, not {manifest.memory_size}", code="snapshot-format")
        paths.append(path)
    return paths


def read_state(folder: str, manifest: Manifest) -> Any:
    """The file ``state``, decoded: plain values.

    :raises ConfigError: it is not the one that was written
    """
    from vmm.faststart.builtin import sha256

    path = os.path.join(folder, STATE)
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", code="snapshot-file") from error
    if sha256(raw) != manifest.state_sha256:
        raise ConfigError(f"{path}: damaged: its checksum is another", code="snapshot-damaged")
    return decode_state(raw, path)


def decode_state(raw: bytes, path: str) -> Any:
    """CBOR (RFC 8949) as plain values.

    :raises ConfigError: it is not that
    """
    import cbor2

    try:
        return cbor2.loads(raw)
    except (cbor2.CBORError, ValueError, RecursionError, MemoryError, OverflowError, TypeError) as error:
        raise ConfigError(f"{path}: no state: {error}", code="snapshot-format") from error


def encode_state(value: Any) -> bytes:
    """The same the other way."""
    import cbor2

    return bytes(cbor2.dumps(plain(value)))
