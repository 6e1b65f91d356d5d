"""``manifest.json``: the description of a snapshot, and the requirements on a host that restores it. See
docs/reference/snapshot-format.md."""

from __future__ import annotations

import errno
import json
import os
import posix
import stat

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.memory.layout import HOLE_START, PAGE
from vmm.memory.on_demand import MAX_CONSTANT
from vmm.native import ffi, lib
from vmm.saving.directory import Directory
from vmm.saving.records import made, plain
from vmm.saving.regular_files import MANIFEST, MEMORY, STATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 3
"""Changes when an older pyvmm cannot read what a newer one writes."""
_OLDEST = 1
"""The oldest format that is read: it has no :attr:`Manifest.constant`."""
CHECKED = 3
"""From this one on there is a checksum of everything."""
_MOST = 1 << 20
"""Bytes of a manifest; it has some thousand."""
_MOST_LAYERS = 64
_STATE_MOST, _STATE_LIMIT = 64 << 20, 1 << 30
"""Bytes of a state, beside what servers of shares know of files, which depends on RAM; and in any case."""
_ITEMS_MOST = 1 << 18
"""Items of a state: a vCPU has about a thousand."""
_NO_SUM = "0" * 64


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
    """A disk: ``file`` is the name of its copy in the snapshot, empty if ``image`` is read-only and only referenced.

    :ivar crc32: of the copy, see :func:`vmm.saving.memory_file.checksum`
    """

    image: FileState
    file: str
    read_only: bool
    crc32: int = 0


@dataclass(frozen=True)
class Device:
    """The entry for a device in ``state``: its kind and the version of its state."""

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
    :ivar memory_crc32: of the file ``memory``, see :func:`vmm.saving.memory_file.checksum`
    :ivar pages_crc32: of a diff: the same of the file ``pages``
    :ivar memory_size: bytes of RAM
    :ivar memory_bytes: bytes of RAM that ``memory`` contains
    :ivar config: the machine's configuration, as :func:`vmm.saving.records.plain` has it
    :ivar constant: guest physical addresses, half-open: code and constants of the guest's kernel
    :ivar checksum: SHA-256 of the manifest's text with 64 zeros in this place
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
    pages_crc32: int = 0
    checksum: str = ""

    def constant_ranges(self) -> list[tuple[int, int]]:
        """:attr:`constant` as offsets into RAM."""
        return [(start, end) for start, end in self.constant]

    def has_constant(self) -> bool:
        """Check that they are ranges of whole pages of RAM below the hole for devices, few, and ascending."""
        at, most = 0, min(self.memory_size, HOLE_START)
        for each in self.constant:
            if len(each) != 2 or not at <= each[0] < each[1] <= most or (each[0] | each[1]) % PAGE:
                return False
            at = each[1]
        return len(self.constant) <= MAX_CONSTANT


_KINDS: dict[str, type] = {each.__name__: each for each in (Cpu, FileState, Disk, Device, Manifest)}


def file_state(path: str) -> FileState:
    """The present state of the file or block device *path*.

    :raises ConfigError: it cannot be inspected
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
    """The same for the open descriptor *fd*; *path* is its name."""
    return FileState(os.path.abspath(path), *size_and_change(fd))


def size_and_change(fd: int) -> tuple[int, int]:
    """Of an open file or block device: bytes, and the time of its last change in ns."""
    status = os.fstat(fd)
    size = status.st_size if stat.S_ISREG(status.st_mode) else os.lseek(fd, 0, os.SEEK_END)
    return size, status.st_mtime_ns


def write_manifest(path: str, manifest: Manifest) -> None:
    """Write the new file *path*."""
    with open(path, "x", encoding="utf-8") as file:
        file.write(manifest_text(plain(manifest)))


def manifest_text(value: dict[str, Any]) -> str:
    """The text of a manifest of plain values, with its checksum."""
    from vmm.faststart.builtin import sha256

    text = json.dumps({**value, "checksum": _NO_SUM}, indent=1) + "\n"
    before, _, after = text.rpartition(_NO_SUM)
    return before + sha256(text.encode()) + after


def _is_sound(raw: bytes, value: dict[str, Any]) -> bool:
    """Check that the manifest *raw* has its checksum, or is of a format without one."""
    from vmm.faststart.builtin import sha256

    checksum = value.get("checksum", "" if value["format"] < CHECKED else None)
    if checksum == "" and value["format"] < CHECKED:
        return True
    if not isinstance(checksum, str) or len(checksum) != len(_NO_SUM) or not checksum.isascii():
        return False
    before, _, after = raw.rpartition(checksum.encode())
    return sha256(before + _NO_SUM.encode() + after) == checksum


def read_manifest(folder: str) -> Manifest:
    """The manifest of the snapshot in *folder*.

    :raises ConfigError: there is none, or this pyvmm cannot read it
    """
    with Directory(folder) as directory:
        return _read_manifest(directory)


def _read_manifest(directory: Directory) -> Manifest:
    folder = directory.folder
    path = os.path.join(folder, MANIFEST)
    if not os.path.lexists(directory.file(MANIFEST)):
        raise ConfigError(
            f"{folder} is no snapshot: {os.strerror(errno.ENOENT)}: {MANIFEST}",
            code="snapshot-none",
            hint="pyvmm snapshot makes one",
        )
    text = directory.read(MANIFEST, _MOST)
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
    if not _is_sound(text, value):
        raise damaged(path)
    manifest: Manifest = made(value, "Manifest", _KINDS, path)
    for disk in manifest.disks:
        if disk.file and (os.path.basename(disk.file) != disk.file or disk.file in (".", "..") or "\0" in disk.file):
            raise ConfigError(f"{path}: {disk.file!r:.60} is not a file name", code="snapshot-format")
    if "\0" in manifest.base:
        raise ConfigError(f"{path}: {manifest.base!r:.60} is no path", code="snapshot-format")
    if not manifest.has_constant():
        raise ConfigError(f"{path}: its constant memory is not in RAM", code="snapshot-format")
    return manifest


def damaged(path: str) -> ConfigError:
    """The error for a file whose checksum differs from the written one."""
    return ConfigError(
        f"{path}: damaged: its checksum is another",
        code="snapshot-damaged",
        hint="take the file from a backup, or take the snapshot again",
    )


class Layer:
    """A snapshot that is read.

    :ivar folder: its path, for messages
    """

    def __init__(self, directory: Directory) -> None:
        self.folder = directory.folder
        self.directory = directory
        self.manifest = _read_manifest(directory)


class Layers:
    """A snapshot and the chain of its bases, while they are read. A context manager.

    :ivar all: the full one first
    :raises ConfigError: one is missing, has been replaced, or they form a circle
    """

    def __init__(self, folder: str) -> None:
        self.all: list[Layer] = []
        try:
            self._open(Directory(folder))
            while self.all[0].manifest.base:
                if len(self.all) > _MOST_LAYERS:
                    raise ConfigError(
                        f"{folder}: more than {_MOST_LAYERS} snapshots on each other", code="snapshot-base"
                    )
                self._open(_base_of(self.all[0]))
                _check_base(self.all[1], self.all[0])
        except BaseException:
            self.close()
            raise

    def _open(self, directory: Directory) -> None:
        try:
            self.all.insert(0, Layer(directory))
        except BaseException:
            directory.close()
            raise

    @property
    def top(self) -> Layer:
        """The snapshot itself."""
        return self.all[-1]

    def __enter__(self) -> Layers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of them.  A second call does nothing."""
        for each in self.all:
            each.directory.close()


def _base_of(layer: Layer) -> Directory:
    base = layer.manifest.base
    # Of the directory itself, whatever link leads to it; older ones were written by their paths
    paths = [os.path.normpath(os.path.join(at, base)) for at in (os.path.realpath(layer.folder), layer.folder)]
    for path in paths:
        if os.path.lexists(os.path.join(path, MANIFEST)):
            return Directory(path)
    raise ConfigError(
        f"{layer.folder} is a diff of the snapshot {paths[0]}, which is not there",
        code="snapshot-base",
        hint="move the base back there: a diff holds only the memory that differs from it",
    )


def _check_base(layer: Layer, below: Layer) -> None:
    if below.manifest.id != layer.manifest.base_id or below.manifest.memory_size != layer.manifest.memory_size:
        raise ConfigError(
            f"{layer.folder} is a diff of another snapshot than the one that is in {below.folder} now",
            code="snapshot-base",
            hint="move the base back there: a diff holds only the memory that differs from it",
        )


def layers(folder: str) -> list[tuple[str, Manifest]]:
    """The paths and manifests of :class:`Layers`.

    :raises ConfigError: as that does
    """
    with Layers(folder) as found:
        return [(each.folder, each.manifest) for each in found.all]


def memory_files(found: Layers) -> list[str]:
    """Paths of the ``memory`` files of snapshots, while they are read.

    :raises ConfigError: one is missing or too short, or the bits of a diff are damaged
    """
    from vmm.saving.memory_file import PAGES, checksum, read_pages

    paths = []
    for each in found.all:
        size, wanted = _size(each, MEMORY), each.manifest.memory_size
        if size != wanted:
            raise ConfigError(f"{each.directory.name(MEMORY)}: {size} bytes, not {wanted}", code="snapshot-format")
        if each.manifest.base:
            length = len(read_pages(each.directory.file(""), wanted, each.directory.name(PAGES)))
            crc32 = each.manifest.pages_crc32
            if each.manifest.format >= CHECKED and checksum(each.directory.file(PAGES), length) != crc32:
                raise damaged(each.directory.name(PAGES))
        paths.append(each.directory.file(MEMORY))
    return paths


def _size(layer: Layer, name: str) -> int:
    fd = layer.directory.open(name)
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def read_state(layer: Layer) -> Any:
    """The file ``state``, decoded: plain values.

    :raises ConfigError: it is not the one that was written
    """
    from vmm.faststart.builtin import sha256

    path = layer.directory.name(STATE)
    raw = layer.directory.read(STATE, state_most(layer.manifest.memory_size))
    if sha256(raw) != layer.manifest.state_sha256:
        raise damaged(path)
    return decode_state(raw, path)


def state_most(memory_size: int) -> int:
    """The largest size of the state of a machine with so much RAM."""
    return min(_STATE_MOST + max(memory_size, 0) // 4, _STATE_LIMIT)


def read_open_state(fd: int, memory_size: int, what: str) -> Any:
    """The same for a state that another process has written into an open file, which may have any size.

    :raises ConfigError: it is no state
    """
    size, most = posix.fstat(fd).st_size, state_most(memory_size)
    if size > most:
        raise ConfigError(f"{what}: a state of more than {most} bytes", code="snapshot-format")
    return decode_state(posix.pread(fd, size, 0), what)


def decode_state(raw: bytes, path: str) -> Any:
    """CBOR (RFC 8949) as plain values. It refuses tags, for which a decoder makes objects of other types, and more
    items than a state has, since an item of one byte takes some hundred bytes of memory.

    :raises ConfigError: it is not that
    """
    import cbor2

    result = lib.cbor_check(ffi.from_buffer(raw), len(raw), _ITEMS_MOST)
    if result < 0:
        why = {
            -errno.E2BIG: f"more than {_ITEMS_MOST} values, or nested deeper than {lib.CBOR_DEPTH}",
            -errno.EOPNOTSUPP: "it has a tag",
        }
        raise ConfigError(f"{path}: no state: {why.get(result, 'no CBOR')}", code="snapshot-format")
    try:
        return cbor2.loads(raw)
    except (cbor2.CBORError, ValueError, RecursionError, MemoryError, OverflowError, TypeError) as error:
        raise ConfigError(f"{path}: no state: {error}", code="snapshot-format") from error


def encode_state(value: Any) -> bytes:
    """The same the other way."""
    import cbor2

    return bytes(cbor2.dumps(plain(value)))
