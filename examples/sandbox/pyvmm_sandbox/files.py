"""Files of a sandbox.  Errors are Python's own: FileNotFoundError, IsADirectoryError, PermissionError and so on."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_sandbox import window
from pyvmm_sandbox.errors import UsageError
from pyvmm_sandbox.stream import Stream, protocol_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from types import TracebackType

    from pyvmm_sandbox.commands import Command

    Start = Callable[[list[str]], Command]

READ_MOST = 256 << 20
"""The default limit of :meth:`Files.read`, in bytes."""
DOWNLOAD_MOST = 16 << 30
"""The default limit of :meth:`Files.download`, in bytes; each file, directory and link counts 4 KiB more."""
ENTRIES_MOST = 1_000_000
"""The default limit of :meth:`Files.entries`."""
_CHUNK = 1 << 20
_LONGEST = 4095
_FIELDS = 8
_TYPES = {"f": "file", "d": "directory", "l": "link"}


class Entry(NamedTuple):
    """A file, directory or link.

    :ivar path: absolute
    :ivar type: ``file``, ``directory``, ``link`` or ``other``
    :ivar size: in bytes
    :ivar mode: permissions
    :ivar modified: seconds since 1970
    :ivar target: of a link
    """

    path: str
    type: str
    size: int
    mode: int
    uid: int
    gid: int
    modified: float
    target: str = ""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return os.path.basename(self.path)


class Change(NamedTuple):
    """A change of a watched directory.

    :ivar kind: ``create``, ``write``, ``remove``, ``attributes``; ``overflow``: some were lost
    :ivar path: of what has changed
    """

    kind: str
    path: str


class Watch:
    """Changes, as an iterator; as a context manager, it ends with the block."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._stream = Stream(command)

    def __iter__(self) -> Iterator[Change]:
        with protocol_errors("watch"):
            for kind, path in self._stream.records(2):
                yield Change(kind, path)

    def close(self) -> None:
        self._command.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class Files:
    """The files of a sandbox: ``box.files``.

    Paths are those inside the sandbox, and absolute.  All operations run inside it, as root.

    :param start: starts pyvmm-box with arguments, and pipes
    :param share: the same with memory that is shared with it, for large files; None: that is not possible
    """

    def __init__(self, start: Start, share: Start | None = None) -> None:
        self._start = start
        self._share = share

    def read(self, path: str, *, max_bytes: int = READ_MOST) -> bytes:
        """The content of a file.

        :param max_bytes: a larger file is an error (EFBIG), whatever size the sandbox reports
        :raises OSError: it cannot be read
        """
        content = io.BytesIO()
        for piece in self._pieces(path):
            if content.tell() + len(piece) > max_bytes:
                raise OSError(errno.EFBIG, f"it has more than {max_bytes} bytes, see max_bytes= and stream()", path)
            content.write(piece)
        return content.getvalue()

    def read_text(self, path: str, encoding: str = "utf-8", *, max_bytes: int = READ_MOST) -> str:
        """The same as text."""
        return self.read(path, max_bytes=max_bytes).decode(encoding)

    def stream(self, path: str) -> Generator[bytes]:
        """The same in pieces, without a limit."""
        with contextlib.closing(self._pieces(path)) as pieces:
            yield from map(bytes, pieces)

    def _pieces(self, path: str) -> Generator[bytes | memoryview]:
        """Each is valid until the next one is requested."""
        if not (yield from self._small(path)) or self._share is None:
            return
        with self._share(["give", path, str(window.SLOT)]) as command:
            if command.window < 0:
                yield from self._small(path, limited=False)
                return
            with protocol_errors(path):
                try:
                    yield from window.receive(command)
                except EOFError as error:
                    _check(command, path)
                    raise ValueError("a file without an end") from error
            _check(command, path)

    def _small(self, path: str, *, limited: bool = True) -> Generator[bytes, None, bool]:
        """The same through a pipe; returns whether the file is too large for that, and nothing came.

        :param limited: otherwise no file is, as without windows
        """
        limited = limited and self._share is not None
        with self._start(["read", _checked(path), *([str(window.LEAST)] if limited else [])]) as command:
            while command.is_open:
                yield from (event.data for event in command.read(None) if event.kind == "stdout")
            if limited and command.wait() == errno.EFBIG:
                return True
            _check(command, path)
        return False

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Replace the content of a file, as a whole or not at all, and make its directories.

        When this returns, the content is on the sandbox's disk.

        :param mode: permissions of a new file
        :raises OSError: it cannot be written
        """
        view = memoryview(data.encode() if isinstance(data, str) else data).cast("B")
        if self._share is not None and len(view) >= window.LEAST:
            with self._share(["take", _checked(path), f"{mode:o}", str(window.SLOT), str(len(view))]) as command:
                if command.window >= 0:
                    window.send(command, view)
                    _check(command, path)
                    return
        with self._start(["write", _checked(path), f"{mode:o}"]) as command:
            try:
                for at in range(0, len(view), _CHUNK):
                    command.write(view[at : at + _CHUNK])
            except BrokenPipeError:
                pass  # it reports the reason by its status
            command.close_stdin()
            _check(command, path)

    def entries(self, path: str = "/", *, depth: int = 1, max_entries: int = ENTRIES_MOST) -> list[Entry]:
        """The entries of a directory, sorted by path.

        :param depth: 2: of its directories, too, and so on
        :param max_entries: more are an error (EFBIG)
        :raises OSError: it cannot be listed
        """
        if depth < 1:
            raise UsageError(f"depth {depth} is not 1 or more")
        return self._entries(path, depth, max_entries)

    def info(self, path: str) -> Entry:
        """What is known of a file; of a link itself.

        :raises OSError: there is none
        """
        return self._entries(path, 0)[0]

    def exists(self, path: str) -> bool:
        """Whether there is such a file; a link counts."""
        try:
            self.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents; it can be there already.

        :raises OSError: it cannot be made
        """
        self._run(["mkdir", _checked(path)], path)

    def move(self, source: str, target: str) -> None:
        """Rename a file or directory; a file at the target is replaced.

        :raises OSError: it cannot be moved
        """
        self._run(["move", _checked(source), _checked(target)], source)

    def remove(self, path: str) -> None:
        """Remove a file, or a directory with all that is in it.

        :raises OSError: it cannot be removed
        """
        self._run(["remove", _checked(path)], path)

    def watch(self, path: str, *, deep: bool = False) -> Watch:
        """Watch a directory for changes.  When this returns, none is missed.

        :param deep: also the directories below
        :raises OSError: there is no such directory
        """
        command = self._start(["watch", _checked(path), "deep" if deep else "flat"])
        watch = Watch(command)
        for _ in watch:
            return watch  # the first record: it is ready
        with command:
            _check(command, path)
        return watch

    def upload(self, folder: str | os.PathLike[str], path: str) -> None:
        """Copy a directory of the host with all that is in it.  Files that are there and not in it stay.

        :param path: the directory in the sandbox, which is made
        :raises OSError: something cannot be read or written
        """
        root = os.fspath(folder)
        if not os.path.isdir(root):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), root)
        with self._start(["put", _checked(path)]) as command:
            try:
                _send_tree(command, root)
                command.write(_record(".", 0, 0, ""))
            except BrokenPipeError:
                pass  # it reports the reason by its status
            command.close_stdin()
            _check(command, path)

    def download(self, path: str, folder: str | os.PathLike[str], *, max_bytes: int = DOWNLOAD_MOST) -> None:
        """Copy a directory of the sandbox into a directory of the host.

        Nothing outside of *folder* is written, whatever the sandbox sends: links are made, and never followed.

        :param folder: is made; files in it that have the same name are replaced
        :param max_bytes: more is an error (EFBIG); each file, directory and link counts 4 KiB more
        :raises OSError: something cannot be read or written
        """
        from pyvmm_sandbox.receive import receive_tree

        with self._start(["get", _checked(path)]) as command:
            receive_tree(command, os.fspath(folder), max_bytes)
            _check(command, path)

    def _entries(self, path: str, depth: int, most: int = ENTRIES_MOST) -> list[Entry]:
        with self._start(["list", _checked(path), str(depth)]) as command:
            found: list[Entry] = []
            with protocol_errors(path):
                for name, kind, size, mode, uid, gid, modified, target in Stream(command).records(_FIELDS):
                    numbers = int(size), int(mode, 8), int(uid), int(gid)
                    if len(found) == most:
                        raise OSError(errno.EFBIG, f"it has more than {most} entries", path)
                    found.append(Entry(name, _TYPES.get(kind, "other"), *numbers, float(modified), target))
            _check(command, path)
        return sorted(found)

    def _run(self, words: list[str], path: str) -> None:
        with self._start(words) as command:
            command.close_stdin()
            while command.is_open:
                command.read(None)
            _check(command, path)

    list = entries
    """The same by the name that other libraries have for it."""


def _checked(path: str) -> str:
    """
    :raises UsageError: it is no absolute path, or its bytes are not UTF-8
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"{path[:100]!r} is not UTF-8", hint="use a command for such a file") from error
    if not path.startswith("/") or "\0" in path or size > _LONGEST:
        raise UsageError(f"{path[:100]!r} is not an absolute path", hint='for example "/tmp/data.csv"')
    return path


def _check(command: Command, path: str) -> None:
    status = command.wait()
    if status:
        known = status in errno.errorcode
        raise OSError(status if known else errno.EIO, os.strerror(status) if known else f"status {status}", path)


def _record(kind: str, mode: int, size: int, name: str) -> bytes:
    return b"\0".join([kind.encode(), b"%o" % mode, b"%d" % size, os.fsencode(name), b""])


def _send_tree(command: Command, root: str) -> None:
    for folder, folders, names in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted({*folders, *names}):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            inside = os.path.relpath(path, root)
            if stat.S_ISDIR(status.st_mode):
                command.write(_record("d", stat.S_IMODE(status.st_mode), 0, inside))
            elif stat.S_ISLNK(status.st_mode):
                target = os.fsencode(os.readlink(path))
                command.write(_record("l", 0o777, len(target), inside) + target)
            elif stat.S_ISREG(status.st_mode):
                _send_file(command, path, inside)
        folders[:] = sorted(set(folders) - set(links))


def _send_file(command: Command, path: str, inside: str) -> None:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        command.write(_record("f", stat.S_IMODE(status.st_mode), status.st_size, inside))
        left = status.st_size
        while left:
            data = file.read(min(left, _CHUNK))
            if not data:  # it has shrunk meanwhile
                data = bytes(min(left, _CHUNK))
            command.write(data)
            left -= len(data)
