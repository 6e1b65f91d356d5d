"""Copies of files between the host and a container, by the ``tar`` of its image.

The container is not trusted: a process that reaches a new directory alone unpacks what it sends, and what is expected
of it is then moved to its place.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
import tempfile
import threading
from typing import IO, TYPE_CHECKING, Any

from pyvmm_kata.bundle import images
from pyvmm_kata.bundle.image_layers import Layer
from pyvmm_kata.containers import PIPE, Container
from pyvmm_kata.errors import ConfigError, GuestError, HostError, VmmError
from pyvmm_kata.machines.options import printable

if TYPE_CHECKING:
    from types import TracebackType

    from pyvmm_kata.containers import Process
    from pyvmm_kata.machines.records import Machine

_KINDS = 'if [ -d "$1" ]; then exit 10; elif [ -e "$1" ]; then exit 11; else exit 12; fi'
_FOLDER, _FILE, _NONE = 10, 11, 12
_WORDS_MOST = 1000
_END_S = 30.0


class Copier:
    """Copies of one container.

    :param root: where states are
    """

    def __init__(self, found: Machine, root: str) -> None:
        self._container = Container(found.name, root=root)
        self._name = found.name

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._container.close()

    def put_stream(self, fd: int, target: str) -> None:
        """Unpack an archive, read from a descriptor, in a directory of the container.

        :raises VmmError: it cannot be unpacked
        """
        with self._tar(["-xf", "-", "-C", target], stdin=fd) as tar:
            tar.finish()

    def get_stream(self, source: str, fd: int) -> None:
        """Write an archive of a file or directory of the container to a descriptor.

        :raises VmmError: it cannot be read
        """
        with self._tar(["-cf", "-", *_place(source)], stdout=fd) as tar:
            tar.finish()

    def put(self, source: str, target: str) -> None:
        """Copy into the container.  The copies belong to root.

        :raises VmmError: they cannot be made
        """
        whole = source.endswith("/.") or source == "."
        if not os.path.lexists(source):
            raise ConfigError(f"{source}: no such file or directory", code="cp-source")
        folder, name = self._destination(target, os.path.basename(os.path.abspath(source)), source, whole=whole)
        with self._tar(["-xf", "-", "-C", folder], stdin=PIPE) as tar:
            assert tar.process.stdin is not None
            try:
                with (
                    io.BufferedWriter(_raw(tar.process.stdin), 1 << 16) as into,
                    tarfile.open(fileobj=into, mode="w|") as archive,
                ):
                    archive.add(source, arcname=name, filter=_of_root)
            except BrokenPipeError:
                pass  # tar reports why
            except OSError as error:
                tar.process.kill()
                raise HostError(f"{error.filename or source}: {error.strerror}", code="cp-source") from error
            tar.finish()

    def _destination(self, target: str, base: str, source: str, *, whole: bool) -> tuple[str, str]:
        """The directory of the container in which tar unpacks, and the name that the copy has there."""
        kind = self._kind_of(target)
        folder, name = os.path.split(target.rstrip("/") or "/")
        if kind == _FOLDER:
            return target, "." if whole else base
        if os.path.isdir(source):
            if kind == _FILE:
                raise ConfigError(f"{self._name}:{target} is no directory", code="cp-target")
        elif target.endswith("/"):
            raise ConfigError(f"{self._name}:{target} does not exist", code="cp-target", hint="or is no directory")
        if self._kind_of(folder) != _FOLDER:
            raise ConfigError(f"{self._name}:{folder} does not exist", code="cp-target", hint="mkdir it first")
        return folder, name

    def _kind_of(self, path: str) -> int:
        with self._exec(["sh", "-c", _KINDS, "sh", path]) as process:
            return process.wait(_END_S)

    def get(self, source: str, target: str) -> None:
        """Copy to the host; nothing outside of *target* is written.  The copies belong to the caller.

        :raises VmmError: they cannot be made
        """
        into = os.path.isdir(target)
        where = os.path.realpath(target) if into else os.path.dirname(os.path.abspath(target))
        if not os.path.isdir(where) or (target.endswith("/") and not into):
            raise ConfigError(f"{target}: no such directory", code="cp-target", hint="mkdir makes it")
        whole = source.endswith("/.")
        name = os.path.basename(os.path.normpath(source)) or "root"
        try:
            staging = tempfile.mkdtemp(prefix=".pyvmm-cp-", dir=where)
        except OSError as error:
            raise HostError(f"{where}: {error.strerror}", code="cp-target") from error
        try:
            self._receive(source, staging)
            _tame(staging)
            found = staging if whole or source == "/" else os.path.join(staging, name)
            if not os.path.lexists(found):
                raise GuestError(f"{self._name} has sent something else than {source}", code="cp-source")
            goal = os.path.abspath(target) if not into else where if whole else os.path.join(where, name)
            _move(found, goal)
        except OSError as error:
            raise HostError(
                f"{error.filename2 or error.filename or target}: {error.strerror}", code="cp-target"
            ) from error
        finally:
            images.remove(staging)

    def _receive(self, source: str, staging: str) -> None:
        with self._tar(["-cf", "-", *_place(source)], stdout=PIPE) as tar:
            assert tar.process.stdout is not None
            try:
                images.unpack(
                    [Layer("tar")], [tar.process.stdout.fileno()], staging, f"{self._name}:{source}", owners=False
                )
            except VmmError:
                tar.process.stdout.close()
                tar.finish()  # its own error is better
                raise
            for _ in range(16):  # the padding of the archive
                if not tar.process.stdout.read(1 << 16):
                    break
            tar.finish()

    def _exec(self, command: list[str], **streams: Any) -> Process:
        try:
            return self._container.exec(command, cwd="/", user="0:0", **streams)
        except VmmError as error:
            if "not found" not in str(error) and "No such file" not in str(error):
                raise
            raise ConfigError(
                f"{self._name} has no {command[0]}", code="cp-tar", hint="cp needs sh and tar in the image"
            ) from error

    def _tar(self, words: list[str], **streams: Any) -> _Tar:
        return _Tar(self._exec(["tar", *words], stderr=PIPE, **streams), self._name)


class _Tar:
    """A tar that runs in a container."""

    def __init__(self, process: Process, name: str) -> None:
        self.process = process
        self._name = name
        self._words = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> _Tar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.process.kill()
        self.process.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(OSError, ValueError):  # it was closed
            while data := self.process.stderr.read(1 << 12):
                self._words = (self._words + data)[:_WORDS_MOST]

    def finish(self) -> None:
        """Wait for its end.

        :raises GuestError: it has failed
        """
        if self.process.stdin is not None:
            self.process.stdin.close()
        status = self.process.wait()
        if status:
            self._reader.join(1.0)
            words = printable(" ".join(self._words.decode(errors="replace").split()))
            raise GuestError(f"{self._name}: {words or f'tar ended with {status}'}", code="cp-tar")


def _raw(file: IO[bytes]) -> io.RawIOBase:
    assert isinstance(file, io.RawIOBase)  # a pipe of a process has no buffer
    return file


def _place(path: str) -> list[str]:
    """Arguments of tar for a path of the container."""
    if path.endswith("/.") or path == "/":
        return ["-C", path.removesuffix("."), "--", "."]
    folder, name = os.path.split(os.path.normpath(path))
    return ["-C", folder, "--", name]


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    return entry.replace(uid=0, gid=0, uname="", gname="", deep=False)


def _tame(folder: str) -> None:
    """Of a container's files, remove what is neither file, directory nor link, and the rights of their owners."""
    for path, folders, names in os.walk(folder):
        for name in (*folders, *names):
            one = os.path.join(path, name)
            mode = os.lstat(one).st_mode
            if stat.S_ISDIR(mode):
                os.chmod(one, stat.S_IMODE(mode) & 0o777 | 0o700)
            elif stat.S_ISREG(mode):
                os.chmod(one, stat.S_IMODE(mode) & 0o777)
            elif not stat.S_ISLNK(mode):
                os.unlink(one)


def _move(source: str, target: str) -> None:
    """Rename it; a directory is merged into one that is there.  No link is followed.

    :raises OSError: one of the two is a directory and the other is not
    """
    if _is_folder(source) and _is_folder(target):
        for name in os.listdir(source):
            _move(os.path.join(source, name), os.path.join(target, name))
    else:
        os.rename(source, target)


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
