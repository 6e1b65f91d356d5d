"""The processes of a container as files of the host: the ``/proc`` of its proxy process (for ``podman top``).

A read-only FUSE file system (linux/fuse.h). Its content is text that the guest sends at an access; the set of files,
and the pids in their names, are checked. Pids in the files are translated into those of the container's own namespace.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import GuestError, VmmError
from pyvmm_kata.host.mounts import FUSE_REQUEST_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FRESH_S = 2.0
"""Seconds for which an answer of the guest's is used, an invalid one too."""
MAX_OPEN = 256
MAX_FILE = 16384
MAX_PIDS = 8192
MAX_PID = 1 << 22  # PID_MAX_LIMIT

_FILES, _TOP_FILES = ("stat", "status", "cmdline"), ("stat", "uptime")
_LINE = re.compile(rb"(stat|uptime|([1-9][0-9]{0,6})/(stat|status|cmdline)) ([0-9]{1,5})\n")
_FIRST = re.compile(rb"first ([1-9][0-9]{0,6})\n")
_END = b"end\n"
_IDS = re.compile(rb"^(NSpid|NSpgid|NSsid):((?:\t[0-9]{1,7}){1,33})$", re.MULTILINE)
_STATUS = re.compile(rb"^(Tgid|Pid|PPid|TracerPid|NStgid|NSpid|NSpgid|NSsid):[\t0-9]*$", re.MULTILINE)
_STAT = re.compile(rb"[0-9]+ (\(.*\) .) ([0-9]+) [0-9-]+ [0-9-]+ ([0-9-]+) ([0-9-]+) (.*)", re.DOTALL)


class Listing(NamedTuple):
    """What the guest has said.

    :ivar top: files that are not a process's
    :ivar processes: files, by pid in the container
    """

    top: Mapping[str, bytes]
    processes: Mapping[int, Mapping[str, bytes]]


def read_listing(text: bytes) -> Listing:
    """What the agent answers (linux-guest/agent/container.h), with the numbers of the container's namespace.

    :raises GuestError: it is invalid
    """
    first = _FIRST.match(text)
    if first is None or not text.endswith(_END):
        raise _nonsense("it has no beginning or no end")
    top: dict[str, bytes] = {}
    found: dict[bytes, dict[str, bytes]] = {}
    at, last = first.end(), len(text) - len(_END)
    while at < last:
        line = _LINE.match(text, at, last)
        if line is None or int(line[4]) > min(MAX_FILE, last - line.end()) or len(found) > MAX_PIDS:
            raise _nonsense(f"byte {at}")
        at = line.end() + int(line[4])
        content = text[line.end() : at]
        if line[2] is None:
            top[line[1].decode()] = content
        else:
            found.setdefault(line[2], {})[line[3].decode()] = content
    ids = {
        pid: {key.decode(): value.split() for key, value in _IDS.findall(of.get("status", b""))}
        for pid, of in found.items()
    }
    level = len(ids.get(first[1], {}).get("NSpid", ())) - 1  # how deep the container's namespace is
    if level < 0:
        raise _nonsense("the container's first process is missing")
    numbers = {pid: of["NSpid"][level] for pid, of in ids.items() if len(of.get("NSpid", ())) > level}
    processes: dict[int, Mapping[str, bytes]] = {}
    for pid, number in numbers.items():
        files = found[pid]
        if 0 < int(number) <= MAX_PID and files.get("stat"):  # else it has ended
            group, session = (ids[pid].get(key, [])[level : level + 1] for key in ("NSpgid", "NSsid"))
            processes[int(number)] = {
                "status": _translate_status(files["status"], number, numbers, level),
                "stat": _translate_stat(files["stat"], number, numbers, (*group, b"0")[0], (*session, b"0")[0]),
                "cmdline": files.get("cmdline", b""),
            }
    return Listing(top, processes)


def _nonsense(what: str) -> GuestError:
    return GuestError(f"the agent's list of processes is invalid: {what}", code="agent-answer")


def _translate_status(text: bytes, number: bytes, numbers: Mapping[bytes, bytes], level: int) -> bytes:
    def line(match: re.Match[bytes]) -> bytes:
        key, values = match[1], match[0].partition(b":")[2].split()
        if key in (b"Tgid", b"Pid"):
            values = [number]
        elif key in (b"PPid", b"TracerPid"):
            values = [numbers.get(value, b"0") for value in values]
        else:
            values = values[level:]
        return key + b":\t" + b"\t".join(values)

    return _STATUS.sub(line, text)


def _translate_stat(text: bytes, number: bytes, numbers: Mapping[bytes, bytes], group: bytes, session: bytes) -> bytes:
    match = _STAT.fullmatch(text.rstrip(b"\n"))
    if match is None:
        raise _nonsense("a stat")
    name, parent, terminal, foreground, rest = match.groups()
    if foreground != b"-1":
        foreground = numbers.get(foreground, b"0")
    words = (number, name, numbers.get(parent, b"0"), group, session, terminal, foreground, rest)
    return b" ".join(words) + b"\n"


# -- the file system -------------------------------------------------------------------------------------------------

_LOOKUP, _FORGET, _GETATTR, _READLINK, _OPEN, _READ, _STATFS, _RELEASE = 1, 2, 3, 5, 14, 15, 17, 18
_OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 27, 28, 29, 36, 42
_HEADER = struct.Struct("IIQQIIII")
_ATTRIBUTES = struct.Struct("6Q10I")
_DIRECT_IO = 1
_ROOT = 1
_PID_SHIFT = 4
"""A node's id is made of a pid and one of these, in this order; that of the root has no pid."""
_PARTS = ("", *_FILES, "ns", "pid")
_NS, _LINK = 4, 5
_TOP_NODES = {"stat": 2, "uptime": 3}


class Server:
    """Answers the requests of one file system.

    :param device: the source of the requests; closed at the end
    :param ask: the guest's present answer, as :func:`read_listing` parses it
    :param namespace: the target of the links to the pid namespace
    """

    def __init__(self, device: int, ask: Callable[[], bytes], namespace: str) -> None:
        self._device = device
        self._ask = ask
        self._namespace = namespace.encode()
        self._listing: Listing | None = None
        self._asked = float("-inf")
        self._open: dict[int, bytes] = {}
        self._handles = 0
        self._handlers: dict[int, Callable[[int, bytes], bytes]] = {
            _LOOKUP: self._lookup,
            _GETATTR: lambda node, _body: struct.pack("QII", 0, 0, 0) + self._attributes(node),
            _READLINK: lambda node, _body: self._content(node),
            _OPEN: self._open_file,
            _OPENDIR: self._open_directory,
            _READ: self._read,
            _READDIR: self._read_directory,
            _RELEASE: self._release,
            _RELEASEDIR: self._release,
            _STATFS: lambda _node, _body: struct.pack("5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0),
        }

    def run(self) -> None:
        """Run until the file system is unmounted everywhere."""
        ready = select.poll()
        ready.register(self._device, select.POLLIN)
        try:
            while True:
                if not ready.poll(None if self._listing is None else FRESH_S * 1000):
                    self._listing = None  # it has not been read for a while
                    continue
                request = self._receive()
                if request:
                    self._answer(request)
        except OSError:
            pass  # ENODEV: unmounted
        finally:
            os.close(self._device)

    def _receive(self) -> bytes:
        try:
            return os.read(self._device, FUSE_REQUEST_MAX)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EAGAIN):
                return b""  # the reader has ended
            raise

    def _answer(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
        if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            return
        failed, body = 0, b""
        try:
            handler = self._handlers.get(opcode)
            if handler is None:
                failed = errno.ENOSYS
            else:
                body = handler(node, request[_HEADER.size :])
        except KeyError:
            failed = errno.ENOENT
        except OSError as error:
            failed = error.errno or errno.EIO
        try:
            os.write(self._device, struct.pack("IiQ", 16 + len(body), -failed, unique) + body)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the reader has ended
                raise

    # -- what there is -----------------------------------------------------------------------------------------------

    def _current(self, *, again: bool = False) -> Listing:
        """The guest's answer.

        :param again: send a request even if the last answer is fresh
        :raises OSError: its answer is invalid; no request is sent for a while
        """
        is_fresh = time.monotonic() - self._asked < FRESH_S
        if not is_fresh or (again and self._listing is not None):
            self._listing = None
            try:
                self._listing = read_listing(self._ask())
            except VmmError:
                pass
            self._asked = time.monotonic()
        if self._listing is None:
            raise OSError(errno.EIO, "the guest does not say")
        return self._listing

    def _content(self, node: int) -> bytes:
        """Of a file or a link.  KeyError: there is none."""
        for name, number in _TOP_NODES.items():
            if node == number:
                return self._current().top[name]
        pid, part = node >> _PID_SHIFT, node & 15
        files = self._current().processes[pid]
        return self._namespace if part == _LINK else files[_PARTS[part]]

    def _names(self, node: int) -> list[tuple[str, int, int]]:
        """The content of a directory: names, their nodes, and their types."""
        pid = node >> _PID_SHIFT
        if node == _ROOT:
            listing = self._current(again=True)
            found = [(str(pid), pid << _PID_SHIFT, stat.S_IFDIR) for pid in sorted(listing.processes)]
            return found + [(name, _TOP_NODES[name], stat.S_IFREG) for name in _TOP_FILES if name in listing.top]
        if pid not in self._current().processes:
            raise KeyError(node)
        if node & 15 == _NS:
            return [("pid", node - _NS + _LINK, stat.S_IFLNK)]
        files = [(name, node + index, stat.S_IFREG) for index, name in enumerate(_FILES, 1)]
        return [*files, ("ns", node + _NS, stat.S_IFDIR)]

    def _attributes(self, node: int) -> bytes:
        part = node & 15
        if node == _ROOT:
            mode = stat.S_IFDIR | 0o555
        elif node in _TOP_NODES.values():
            mode = stat.S_IFREG | 0o444
        elif node >> _PID_SHIFT not in self._current().processes:
            raise KeyError(node)
        elif part in (0, _NS):
            mode = stat.S_IFDIR | 0o555
        else:
            mode = stat.S_IFLNK | 0o777 if part == _LINK else stat.S_IFREG | 0o444
        return _ATTRIBUTES.pack(node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    # -- requests ----------------------------------------------------------------------------------------------------

    def _lookup(self, above: int, body: bytes) -> bytes:
        name = os.fsdecode(body[:-1])
        if above == _ROOT and name in _TOP_NODES:
            node = _TOP_NODES[name]
        elif above == _ROOT and re.fullmatch("[1-9][0-9]{0,6}", name, re.ASCII):
            node = int(name) << _PID_SHIFT
        elif above >> _PID_SHIFT and above & 15 == 0 and name in (*_FILES, "ns"):
            node = above + _PARTS.index(name)
        elif above >> _PID_SHIFT and above & 15 == _NS and name == "pid":
            node = above - _NS + _LINK
        else:
            raise KeyError(name)
        return struct.pack("4Q2I", node, 0, 0, 0, 0, 0) + self._attributes(node)

    def _keep(self, content: bytes, flags: int) -> bytes:
        """A handle: its reader gets this content, whatever the guest answers meanwhile."""
        if len(self._open) >= MAX_OPEN:
            raise OSError(errno.ENFILE, "too many open files")
        self._handles += 1
        self._open[self._handles] = content
        return struct.pack("QII", self._handles, flags, 0)

    def _open_file(self, node: int, _body: bytes) -> bytes:
        return self._keep(self._content(node), _DIRECT_IO)

    def _open_directory(self, node: int, _body: bytes) -> bytes:
        entries = b""
        for name, number, mode in self._names(node):
            word = name.encode()
            size = (24 + len(word) + 7) & ~7
            entry = struct.pack("QQII", number, len(entries) + size, len(word), mode >> 12) + word
            entries += entry.ljust(size, b"\0")
        return self._keep(entries, 0)

    def _read(self, _node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("QQI", body)
        return self._open[handle][offset : offset + size]

    def _read_directory(self, _node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("QQI", body)
        entries, end = self._open[handle], offset
        while end + 24 <= len(entries):
            length = (24 + struct.unpack_from("I", entries, end + 16)[0] + 7) & ~7
            if end + length > offset + size:
                break
            end += length
        return entries[offset:end]

    def _release(self, _node: int, body: bytes) -> bytes:
        self._open.pop(struct.unpack_from("Q", body)[0], None)
        return b""
