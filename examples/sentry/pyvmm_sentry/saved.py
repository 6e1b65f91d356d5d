"""A stopped core on disk: a directory with ``manifest.json``, ``state`` and ``memory``, as snapshots of machines have.

``memory`` is RAM, sparse.  ``state`` is the core's variables, behind the records of the devices (JSON, with its length
in front).  The manifest has the checksums of both, and what the core needs to continue: the same program, and a CPU
with the same registers.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import struct
from _blake2 import blake2b  # hashlib would load OpenSSL
from collections.abc import Iterator
from typing import Any

from pyvmm_sentry.nursery import Image
from pyvmm_sentry.share import Saved
from vmm import ConfigError, HostError, SavedServer

RECORD, FORMAT = "sentry-core", 1
MANIFEST, STATE, MEMORY = "manifest.json", "state", "memory"
_PIECE, _PAGE = 1 << 20, 4096
_LENGTH = struct.Struct("<Q")
_DEVICES_MOST, _VARIABLES_MOST = 16 << 20, 64 << 20
_DEVICES = ("share", "net", "vsock")


def write(folder: str, image: Image, memory: int) -> None:
    """Save a core that was stopped, with its devices held; :func:`complete` follows.

    :param folder: which is made
    :param memory: bytes of RAM
    :raises HostError: the host cannot write it
    """
    devices = {name: _packed(getattr(image.saved, name)) for name in _DEVICES}
    record = json.dumps(devices).encode()
    try:
        os.mkdir(folder, 0o700)
        with _created(folder, STATE) as fd:
            _put(fd, _LENGTH.pack(len(record)) + record)
            size = os.fstat(image.variables).st_size
            _put(fd, os.pread(image.variables, size, 0))
        with _created(folder, MEMORY) as fd:
            os.truncate(fd, memory)
            for at, end in _data_of(image.saved.ram, memory):
                _copy(image.saved.ram, fd, at, end)
    except OSError as error:
        raise _unwritten(folder, error) from error


def complete(folder: str, program: str, memory: int) -> None:
    """Write the manifest, when the core runs again.

    :param program: of the platform
    :raises HostError: the host cannot write it
    """
    try:
        for name in (STATE, MEMORY):
            with _read(folder, name) as fd:
                os.fsync(fd)
        manifest = {
            "record": RECORD,
            "format": FORMAT,
            "base": "",
            "disks": [],
            "memory_size": memory,
            "program": _digest_of_program(program),
            "cpu": _cpu(),
            **_checksums(folder),
        }
        with _created(folder, MANIFEST) as fd:
            _put(fd, json.dumps(manifest).encode())
            os.fsync(fd)
    except OSError as error:
        raise _unwritten(folder, error) from error


def is_core(manifest: object) -> bool:
    """Whether a manifest is that of a core, not of a machine."""
    return isinstance(manifest, dict) and manifest.get("record") == RECORD


def is_saved_in(folder: str) -> bool:
    """Whether a core was saved there, not a machine."""
    with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, MANIFEST), "rb") as file:
        return is_core(json.loads(file.read(_PIECE)))
    return False


def verify(folder: str) -> None:
    """Compare the checksums.

    :raises ConfigError: a file is damaged
    """
    manifest = _manifest(folder)
    try:
        found = _checksums(folder)
    except OSError as error:
        raise _damaged(folder, error.strerror or "") from error
    for name, checksum in found.items():
        if manifest.get(name) != checksum:
            raise _damaged(folder, f"{name.partition('_')[0]} was changed")


@contextlib.contextmanager
def opened(folder: str, program: str, memory: int) -> Iterator[Image]:
    """The core in a folder, whose checksums are not compared.

    :param program: of the platform that continues it
    :param memory: bytes of RAM
    :raises ConfigError: it cannot continue here; the message has the reason
    """
    manifest = _manifest(folder)
    if manifest.get("memory_size") != memory:
        raise _damaged(folder, "it has another amount of memory")
    if manifest.get("program") != _digest_of_program(program):
        raise ConfigError(
            f"{folder} was saved by another build of the Sentry",
            code="sentry-image",
            hint="a core continues in the program that it was stopped in: make a new one",
        )
    if manifest.get("cpu") != _cpu():
        raise ConfigError(f"{folder} was saved on another processor", code="sentry-image")
    with contextlib.ExitStack() as opened_files:
        try:
            ram, state = (opened_files.enter_context(_read(folder, name)) for name in (MEMORY, STATE))
            if os.fstat(ram).st_size != memory:
                raise _damaged(folder, "its memory has another size")
            saved, variables = _state(folder, state, ram, opened_files)
            # Programs are mapped from it
            below = -1 if os.fstatvfs(ram).f_flag & os.ST_NOEXEC else ram
            yield Image(saved, variables, below=below)
        except OSError as error:
            raise _damaged(folder, error.strerror or "") from error


def _state(folder: str, state: int, ram: int, files: contextlib.ExitStack) -> tuple[Saved, int]:
    size = os.fstat(state).st_size
    head = os.pread(state, _LENGTH.size, 0)
    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else size
    start = _LENGTH.size + length
    if start > size or length > _DEVICES_MOST or size - start > _VARIABLES_MOST:
        raise _damaged(folder, "its state is truncated")
    try:
        devices = json.loads(os.pread(state, length, _LENGTH.size))
        servers = [_unpacked(devices[name], f"{folder}: {name}") for name in _DEVICES]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(folder, "its state is no record of devices") from error
    variables = os.memfd_create("sentry-variables")
    files.callback(os.close, variables)
    _put(variables, os.pread(state, size - start, start))
    return Saved(ram, *servers), variables


def _packed(saved: SavedServer | None) -> Any:
    return None if saved is None else _with_text(saved.plain())


def _unpacked(value: Any, where: str) -> SavedServer | None:
    return None if value is None else SavedServer.from_plain(_with_bytes(value), where)


def _with_text(value: Any) -> Any:
    """As JSON has it: a list of a kind and a value for what it does not have."""
    if isinstance(value, bytes):
        return ["bytes", base64.b64encode(value).decode()]
    if isinstance(value, dict):
        return ["map", [[_with_text(key), _with_text(each)] for key, each in value.items()]]
    if isinstance(value, list | tuple):
        return ["list", [_with_text(each) for each in value]]
    return value


def _with_bytes(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "bytes":
        return base64.b64decode(content, validate=True)
    if kind == "map":
        return {_with_bytes(key): _with_bytes(each) for key, each in content}
    if kind != "list":
        raise ValueError(kind)
    return [_with_bytes(each) for each in content]


# -- files -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _created(folder: str, name: str) -> Iterator[int]:
    fd = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _read(folder: str, name: str) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(os.path.join(folder, name), flags)
    try:
        yield fd
    finally:
        os.close(fd)


def _put(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _copy(source: int, target: int, at: int, end: int) -> None:
    # A monitor has neither sendfile() nor copy_file_range()
    os.lseek(target, at, os.SEEK_SET)
    for start in range(at, end, _PIECE):
        _put(target, os.pread(source, min(_PIECE, end - start), start))


def _data_of(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a sparse file that are no holes."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return  # the rest is a hole
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, at


def _checksums(folder: str) -> dict[str, str]:
    """Of the files; holes count like zeros."""
    found = {}
    for name in (STATE, MEMORY):
        digest = blake2b(digest_size=32)
        with _read(folder, name) as fd:
            size = os.fstat(fd).st_size
            digest.update(_LENGTH.pack(size))
            for at, end in _data_of(fd, size):
                for start in range(at, end, _PIECE):
                    data = os.pread(fd, min(_PIECE, end - start), start)
                    if any(data):
                        digest.update(_LENGTH.pack(start) + data)
        found[f"{name}_blake2b"] = digest.hexdigest()
    return found


def _manifest(folder: str) -> dict[str, Any]:
    try:
        with _read(folder, MANIFEST) as fd:
            manifest = json.loads(os.pread(fd, _PIECE, 0))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read") from error
    if not is_core(manifest) or manifest.get("format") != FORMAT:
        raise _damaged(folder, f"{MANIFEST} is not one of a core")
    return dict(manifest)


def _digest_of_program(path: str) -> str:
    """Its first page has the identity of its build."""
    with open(path, "rb") as file:
        return blake2b(file.read(_PAGE), digest_size=16).hexdigest()


def _cpu() -> str:
    """What decides the registers of a CPU, and which instructions it has."""
    with open("/proc/cpuinfo") as file:
        lines = file.read().partition("\n\n")[0].splitlines()
    wanted = [line for line in lines if line.split("\t")[0] in ("vendor_id", "model name", "flags")]
    return blake2b("\n".join(wanted).encode(), digest_size=16).hexdigest()


def _unwritten(folder: str, error: OSError) -> HostError:
    return HostError(f"{folder}: {error.strerror}", code="snapshot-write", errno=error.errno or 0)


def _damaged(folder: str, why: str) -> ConfigError:
    return ConfigError(f"{folder}: {why}", code="snapshot-damaged")
