"""System calls as the core reports them: records of `core/hooks/record.h`."""

from __future__ import annotations

import functools
import ipaddress
import os
import struct
from typing import Any, NamedTuple

from pyvmm_sentry.syscalls import SYSCALLS, Syscall

NUMBERS = 512
"""Of system calls; the last one stands for all without a description."""
RECORD = struct.Struct("<QQIIiiq6QQQ16s")
DECIDE, TRACE, DROPPED, FILE, REPLY = range(5)
GROUPS = {
    "execve": ("execve", "execveat"),
    "open": ("open", "openat", "openat2", "creat"),
    "unlink": ("unlink", "unlinkat"),
    "rename": ("rename", "renameat", "renameat2"),
    "mkdir": ("mkdir", "mkdirat"),
    "link": ("link", "linkat"),
    "symlink": ("symlink", "symlinkat"),
    "chmod": ("chmod", "fchmodat", "fchmodat2"),
    "chown": ("chown", "lchown", "fchownat"),
    "mount": ("mount", "move_mount"),
}
"""Names that stand for several system calls."""
CALLS = {call.number: call for call in SYSCALLS}
_HELD = 1 << 63
_UNIX, _INET, _INET6 = 1, 2, 10
_SIGNED = ("int", "fd", "dirfd", "id", "long")
_NARROW = ("int", "uint", "id", "fd", "dirfd", "signal", "flags", "one", "futex", "mode", "create_mode", "file_mode")


class Header(NamedTuple):
    """The start of a record."""

    id: int
    time: int
    kind: int
    number: int
    pid: int
    tid: int
    result: int
    args: tuple[int, ...]
    directory: int
    real: int
    name: bytes


def header(data: bytes) -> Header:
    """Read the start of a record.

    :raises ValueError: it is too short
    """
    if len(data) < RECORD.size:
        raise ValueError(f"a record of {len(data)} bytes")
    words = RECORD.unpack_from(data)
    number, time, kind, call, pid, tid, result, *args, directory, real, name = words
    return Header(number, time, kind, call, pid, tid, result, tuple(args), directory, real, name)


def numbers(name: str) -> tuple[int, ...]:
    """The system calls that a name stands for; nothing if there is no such call."""
    wanted = GROUPS.get(name, (name,))
    return tuple(call.number for call in SYSCALLS if call.name in wanted)


class Event:
    """A system call.  What its pointers lead to was copied before the call; it is made with that copy.

    :ivar time: when it was made, in seconds since 1970
    :ivar pid: of the process, in the sandbox
    :ivar tid: of the thread
    :ivar program: the name of the thread, as in `/proc/PID/comm`
    :ivar call: its name
    :ivar number: its number
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._header = head = header(data)
        self._call = CALLS.get(head.number, Syscall(head.number, "unknown", 3, ""))
        self.time = head.time / 1e9
        self.pid, self.tid = head.pid, head.tid
        self.program = head.name.split(b"\0")[0].decode(errors="replace")
        self.number = head.number
        self.call = self._call.name
        self.replacement: str | None = None

    @property
    def result(self) -> int | None:
        """What it returned, below 0 an errno; None: it is not made yet."""
        return self._header.result if self._header.kind == TRACE else None

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """By the names of :mod:`pyvmm_sentry.syscalls`: numbers, texts, lists of texts, addresses of sockets (as
        :attr:`address`), and structures as bytes.  None: the pointer leads nowhere.

        A descriptor of a directory that a relative path starts at is AT_FDCWD: see :attr:`directory`.
        """
        return {
            each.name: self._value(each.kind, value)
            for each, value in zip(self._call.arguments, self._header.args, strict=False)
        }

    @property
    def directory(self) -> str | None:
        """Where a relative path starts; None: there is none."""
        return self._text(self._header.directory) if self._header.directory else None

    @property
    def path(self) -> str:
        """The absolute path that the program named, without `.` and `..`; empty: there is none.

        Symbolic links are not resolved: see :attr:`real_path`.
        """
        text = self.arguments.get(self._call.path)
        if not isinstance(text, str):
            return ""
        return os.path.normpath(os.path.join(self.directory or "/", text)) if text else self.directory or ""

    @property
    def real_path(self) -> str:
        """What that leads to without symbolic links, before the call; of a new file, its place; empty: nothing.

        For hooks only. A program that can replace a directory by a link can change it before the call.
        """
        return self._text(self._header.real) or "" if self._header.real else ""

    @property
    def argv(self) -> list[str]:
        """The arguments of a new program."""
        found = self.arguments.get("arguments")
        return found if isinstance(found, list) else []

    @property
    def address(self) -> str | tuple[str, int] | bytes | None:
        """Of a socket: the path of a unix socket, `@` before an abstract name; host and port; or bytes."""
        found: str | tuple[str, int] | bytes | None = self.arguments.get("address")
        return None if isinstance(found, int) else found

    def rewrite(self, *, path: str) -> None:
        """Make the call with another path, in a hook that then allows it.

        :raises ValueError: the call has no path, or this one is not absolute
        """
        if not self._call.path or not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > 4095:
            raise ValueError(f"{self.call}: cannot use the path {path!r}")
        self.replacement = path

    @property
    def path_index(self) -> int:
        """Which argument is the path."""
        return [each.name for each in self._call.arguments].index(self._call.path)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        result = "" if self.result is None else f" = {self.result}"
        return f"<{self.pid} {self.call}({shown}){result}>"

    def _at(self, address: int) -> bytes | None:
        offset = address - _HELD
        return self._data[offset:] if RECORD.size <= offset < len(self._data) else None

    def _text(self, address: int) -> str | None:
        data = self._at(address)
        return None if data is None else os.fsdecode(data.split(b"\0", 1)[0])

    def _texts(self, address: int) -> list[str] | None:
        data = self._at(address)
        if data is None:
            return None
        found = []
        for (pointer,) in struct.iter_unpack("<Q", data[: len(data) // 8 * 8]):
            text = self._text(pointer) if pointer else None
            if text is None:
                break
            found.append(text)
        return found

    def _value(self, kind: str, value: int) -> Any:
        if kind == "path":
            return self._text(value)
        if kind == "strings":
            return self._texts(value)
        if kind == "sockaddr":
            return _address(self._at(value), self._header.args[2] if len(self._call.arguments) == 3 else 128)
        if kind == "get" and value >= _HELD:
            return self._at(value)
        bits = 32 if kind in _NARROW else 64
        value &= (1 << bits) - 1
        return value - (1 << bits) if kind in _SIGNED and value >> (bits - 1) else value


def _address(data: bytes | None, size: int) -> str | tuple[str, int] | bytes | None:
    if data is None:
        return None
    data = data[: min(size, 128)]
    family = int.from_bytes(data[:2], "little")
    if family == _UNIX:
        name = data[2:]
        return "@" + os.fsdecode(name[1:]) if name[:1] == b"\0" else os.fsdecode(name.split(b"\0", 1)[0])
    port = int.from_bytes(data[2:4], "big")
    if family == _INET and len(data) >= 8:
        return str(ipaddress.IPv4Address(data[4:8])), port
    if family == _INET6 and len(data) >= 24:
        return str(ipaddress.IPv6Address(data[8:24])), port
    return data
