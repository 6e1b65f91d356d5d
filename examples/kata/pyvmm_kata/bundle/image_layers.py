"""Unpacks the layers of an image into a directory (OCI image specification 1.1, layer.md).

This runs in a process whose root directory is that directory (:mod:`pyvmm_kata.host.jailed_call`): names and links in a
layer lead nowhere else.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import importlib
import lzma
import os
import stat
import tarfile
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from pyvmm_kata.errors import ConfigError, HostError

_zstd: Any = None
"""A module of this name, or of another one; None: there is none."""
for _name in ("compression.zstd", "zstandard"):
    try:
        _zstd = importlib.import_module(_name)
        break
    except ImportError:
        continue

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1 << 20
_ZEROS = bytes(CHUNK)
_ID_MOST = 0xFFFFFFFE
_REST_MOST = 1 << 30
_USERS_MOST = 4 << 20
"""Most bytes of etc/passwd and etc/group."""
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_FREE_SHARE = 10
"""Of a file system, a tenth of its blocks and inodes stay free."""
_CHECK_BYTES, _CHECK_ENTRIES = 32 << 20, 1000


class Layer(NamedTuple):
    """A layer to unpack.

    :ivar name: for messages
    :ivar digest: of the bytes of its file, or if *unpacked* of the tar archive in it, ``sha256:...``; empty: unchecked
    """

    name: str
    digest: str = ""
    unpacked: bool = False


class Quota(NamedTuple):
    """The limits for all layers together.

    :ivar size: bytes of files
    :ivar entries: files, directories and links
    """

    size: int
    entries: int


class _Counted:
    """A file that is being read, and its digest."""

    def __init__(self, file: IO[bytes], digest: str) -> None:
        self._file = file
        self._wanted = digest
        self._hash = hashlib.new(digest.partition(":")[0]) if digest else None
        self._rest = _REST_MOST
        self._head = b""

    def peek(self, size: int) -> bytes:
        """Its first bytes, which are read again later."""
        self._head = self._file.read(size)
        return self._head

    def read(self, size: int = -1) -> bytes:
        size = CHUNK if size < 0 else size
        data, self._head = self._head[:size], self._head[size:]
        while len(data) < size and (more := self._file.read(size - len(data))):
            data += more
        if self._hash is not None:
            self._hash.update(data)
        return data

    def finish(self) -> None:
        """
        :raises ConfigError: it is not the file that the image names
        """
        if self._hash is None:
            return
        while data := self.read(CHUNK):
            self._rest -= len(data)
            if self._rest < 0:
                raise ConfigError(f"more than {_REST_MOST >> 20} MiB after the end of its archive", code="image")
        if self._wanted.partition(":")[2] != self._hash.hexdigest():
            raise ConfigError(f"damaged: its digest is not {self._wanted}", code="image", hint="copy the image again")


class Unpacker:
    """The root directory of this process, into which layers are unpacked.

    :param owners: set the owners of files
    :param tell: reports where it is
    """

    def __init__(self, quota: Quota, owners: bool, tell: Callable[[dict[str, Any]], None]) -> None:
        self._quota, self._owners, self._tell = quota, owners, tell
        self._size = self._entries = 0
        self._next_size = self._next_entries = 0
        self._made: set[int] = set()
        self._times: list[tuple[str, float]] = []

    def unpack(self, layer: Layer, fd: int) -> None:
        """Unpack one layer over the previous ones.

        :raises ConfigError: it is damaged, or cannot be unpacked
        :raises HostError: it is too large, or the host refuses a file
        """
        self._made.clear()
        self._times.clear()
        name = ""
        try:
            with open(fd, "rb", buffering=0) as file:
                packed = _Counted(file, "" if layer.unpacked else layer.digest)
                content = _Counted(_plain(packed), layer.digest if layer.unpacked else "")
                with tarfile.open(fileobj=cast("IO[bytes]", _Padded(content)), mode="r|") as archive:
                    for member in archive:
                        cast("Any", archive).members.clear()  # or it remembers them all
                        name = member.name
                        self._count(layer, name, member)
                        self._entry(archive, member)
                content.finish()
                packed.finish()
            for path, when in reversed(self._times):
                _set_time(path, when)
        except (tarfile.TarError, EOFError, lzma.LZMAError, gzip.BadGzipFile, ValueError, OverflowError) as error:
            raise ConfigError(f"{layer.name}: no archive, or damaged: {error}", code="image") from error
        except ConfigError as error:
            raise ConfigError(f"{layer.name}: {error}", code=error.code, hint=error.hint) from error
        except HostError:
            raise
        except OSError as error:
            if not name or not error.errno:
                raise ConfigError(f"{layer.name}: no archive, or damaged: {error}", code="image") from error
            raise HostError(f"{layer.name}: {name[:200]}: {_reason(error)}", code="image", errno=error.errno) from error
        except MemoryError as error:
            raise ConfigError(
                f"{layer.name}: an entry after {name[:200]!r} takes too much memory", code="image"
            ) from error
        except Exception as error:
            # Errors of decompressors, each of which has its own: zlib.error, ZstdError
            raise ConfigError(f"{layer.name}: damaged: {error}", code="image") from error

    def _count(self, layer: Layer, name: str, member: tarfile.TarInfo) -> None:
        self._entries += 1
        if not member.islnk():
            self._size += member.size  # of whatever type: it is read
        if self._size > self._quota.size or self._entries > self._quota.entries:
            what = (
                f"{self._quota.size >> 20} MiB" if self._size > self._quota.size else f"{self._quota.entries} entries"
            )
            raise HostError(
                f"{layer.name}: {name[:200]}: the image has more than {what}",
                code="image-size",
                hint="unpack it into a folder yourself, if you trust it, and name that",
            )
        if self._size >= self._next_size or self._entries >= self._next_entries:
            self._next_size, self._next_entries = self._size + _CHECK_BYTES, self._entries + _CHECK_ENTRIES
            free = os.statvfs("/")
            room = (free.f_bavail - free.f_blocks // _FREE_SHARE) * free.f_frsize
            inodes = free.f_favail - free.f_files // _FREE_SHARE
            if member.size > room or (free.f_files and inodes < _CHECK_ENTRIES):
                raise HostError(
                    f"{layer.name}: {name[:200]}: less than a tenth of the file system would be free",
                    code="image-room",
                    hint="set TMPDIR to a directory with more room",
                )
            self._tell({"at": f"{layer.name}, {name[:200]}", "size": self._size})

    # ---- an entry

    def _entry(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = os.path.normpath("/" + member.name)  # what leads above the root ends there
        folder, base = os.path.split(path)
        if base.startswith(_WHITEOUT):
            self._whiteout(folder, base)
            return
        if path != "/":
            self._make_folder(folder)
        if member.isdir():
            if not _is_folder(path):
                _remove(path)
                os.mkdir(path, 0o700)
        elif path == "/":
            raise ConfigError("its root is no directory", code="image")
        else:
            if not self._make(archive, member, path):
                return
        self._attributes(member, path)

    def _make_folder(self, path: str) -> None:
        """A directory that a layer does not contain itself."""
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for each in reversed(missing):
            _remove(each)
            os.mkdir(each, 0o755)
            self._made.add(os.lstat(each).st_ino)

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> bool:
        """Make an entry that is not a directory; False: not made, or not to be changed further."""
        if member.isdev() and not member.isfifo():
            return False  # the machine has a /dev of its own
        if member.islnk():
            target = os.path.normpath("/" + member.linkname)
            if not os.path.lexists(target):
                raise ConfigError(f"{member.name[:200]}: a hard link to no file, {target[:200]}", code="image")
            if os.path.lexists(path) and os.path.samestat(os.lstat(path), os.lstat(target)):
                return False
            _remove(path)
            os.link(target, path, follow_symlinks=False)
            self._made.add(os.lstat(path).st_ino)
            return False
        _remove(path)
        if member.issym():
            os.symlink(member.linkname, path)
        elif member.isfifo():
            os.mkfifo(path, 0o600)
        elif member.isreg():
            self._write(archive, member, path)
        else:
            raise ConfigError(f"{member.name[:200]}: an entry of type {member.type!r}", code="image")
        return True

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        source = archive.extractfile(member)
        assert source is not None
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as file:
            at = 0
            while data := source.read(CHUNK):
                if data == _ZEROS[: len(data)]:
                    at += len(data)  # a hole
                else:
                    file.seek(at)
                    at += file.write(data)
            file.truncate(member.size)
            if at < member.size:
                raise ConfigError(f"{member.name[:200]}: cut off", code="image")

    def _attributes(self, member: tarfile.TarInfo, path: str) -> None:
        uid, gid = member.uid, member.gid
        if self._owners:
            if not 0 <= uid <= _ID_MOST or not 0 <= gid <= _ID_MOST:
                raise ConfigError(f"{member.name[:200]}: owner {uid}:{gid}", code="image")
            os.chown(path, uid, gid, follow_symlinks=False)
        if not member.issym():
            os.chmod(path, member.mode & 0o7777)  # after the owner, whose change clears bits
            for key, value in member.pax_headers.items():
                if key.startswith(_XATTR):
                    self._xattr(path, key.removeprefix(_XATTR), value)
        if member.isdir():
            self._times.append((path, member.mtime))
        else:
            _set_time(path, member.mtime)
        self._made.add(os.lstat(path).st_ino)

    def _xattr(self, path: str, name: str, value: str) -> None:
        if not name.startswith("user.") and not (name == "security.capability" and self._owners):
            return
        try:
            os.setxattr(path, name, value.encode(errors="surrogateescape"), follow_symlinks=False)
        except OSError as error:
            # A FIFO has none of the user's; not every file system has any
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise

    # ---- whiteouts

    def _whiteout(self, folder: str, base: str) -> None:
        if base == _OPAQUE:
            if _is_folder(folder) or folder == "/":
                self._empty(folder)
            return
        if base.startswith(_WHITEOUT * 2):
            return  # what aufs has for itself
        name = base.removeprefix(_WHITEOUT)
        if name in ("", ".", ".."):
            raise ConfigError(f"a whiteout of {name!r}", code="image")
        if os.path.isdir(folder):
            _remove(os.path.join(folder, name))

    def _empty(self, folder: str) -> None:
        """Remove its contents from lower layers."""
        todo = [folder]
        while todo:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if entry.inode() not in self._made:
                        _remove(entry.path)
                    elif entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)


def _plain(packed: _Counted) -> IO[bytes]:
    """The archive in a file, by its first bytes."""
    head = packed.peek(6)
    source = cast("Any", packed)
    if head.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=source))
    if head.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.BZ2File(source))
    if head.startswith(b"\xfd7zXZ\0"):
        return cast("IO[bytes]", lzma.LZMAFile(source))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        if _zstd is None:
            raise ConfigError("compressed with zstd", code="image", hint="pip install zstandard")
        if hasattr(_zstd, "ZstdFile"):
            return cast("IO[bytes]", _zstd.ZstdFile(source))
        unpacker = _zstd.ZstdDecompressor(max_window_size=1 << 27)
        return cast("IO[bytes]", unpacker.stream_reader(source, read_across_frames=True))
    return cast("IO[bytes]", packed)


class _Padded:
    """An archive with the end that umoci omits: zeros up to the end of the block, and two blocks of them."""

    def __init__(self, content: _Counted) -> None:
        self._content = content
        self._total = self._pad = 0
        self._ended = False

    def read(self, size: int) -> bytes:
        data = self._content.read(size)
        self._total += len(data)
        if len(data) < size:
            if not self._ended:
                self._ended, self._pad = True, -self._total % 512 + 1024
            more = min(size - len(data), self._pad)
            self._pad -= more
            data += bytes(more)
        return data


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _remove(path: str) -> None:
    if not os.path.lexists(path):
        return
    if not _is_folder(path):
        os.unlink(path)
        return
    for top, folders, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(top, name))
        for name in folders:
            below = os.path.join(top, name)
            if _is_folder(below):
                os.rmdir(below)
            else:
                os.unlink(below)
    os.rmdir(path)


def _set_time(path: str, when: float) -> None:
    try:
        os.utime(path, (when, when), follow_symlinks=False)
    except (OverflowError, FileNotFoundError):
        pass  # no time that a file can have; replaced by another entry


def _reason(error: OSError) -> str:
    if error.errno == errno.EINVAL and os.geteuid() == 0:
        return "its owner is not in the user namespace, or its name cannot be"
    return error.strerror or str(error)


# ---- users ---------------------------------------------------------------------------------------------------------


def find_user(text: str) -> dict[str, Any]:
    """The ids of ``config.User`` of an image, by its etc/passwd and etc/group, as ``uid``, ``gid``, ``additionalGids``,
    ``home``.

    :raises ConfigError: there is no such user or group
    """
    name, _, group = text.partition(":")
    name = name or "0"
    found: dict[str, Any] = {"uid": 0, "gid": 0, "additionalGids": [], "home": "/"}
    user = next((line for line in _lines("/etc/passwd", 7) if name in (line[0], line[2])), None)
    if user is not None and _is_id(user[2]) and _is_id(user[3]):
        found.update({"uid": int(user[2]), "gid": int(user[3]), "home": user[5] or "/"})
    elif _is_id(name):
        found["uid"] = int(name)
    else:
        raise ConfigError(f"user {name[:100]!r} is not in its etc/passwd", code="image")
    groups = _lines("/etc/group", 4)
    if group:
        line = next((line for line in groups if group in (line[0], line[2]) and _is_id(line[2])), None)
        if line is None and not _is_id(group):
            raise ConfigError(f"group {group[:100]!r} is not in its etc/group", code="image")
        found["gid"] = int(line[2] if line else group)
    elif user is not None:
        ids = {int(line[2]) for line in groups if user[0] in line[3].split(",") and _is_id(line[2])}
        found["additionalGids"] = sorted(ids - {found["gid"]})[:1000]
    return found


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _ID_MOST


def _lines(path: str, fields: int) -> list[list[str]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return []
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        text = (file.read(_USERS_MOST) or b"").decode(errors="replace")
    lines = [line.strip().split(":") for line in text.split("\n")]
    return [line for line in lines if len(line) >= fields and line[0]]
