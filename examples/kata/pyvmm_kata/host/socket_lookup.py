"""Assigns connections to loopback addresses of a network namespace to a socket of ours there, for any port.

A BPF program of the namespace does that (Documentation/bpf/prog_sk_lookup.rst; Linux 5.9).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from typing import TYPE_CHECKING

from pyvmm_kata.host.mounts import libc

if TYPE_CHECKING:
    from collections.abc import Sequence

_NETNS = "/proc/thread-self/ns/net"

# x86-64; linux/bpf.h
_BPF, _MAP_CREATE, _MAP_UPDATE_ELEM, _MAP_DELETE_ELEM, _PROG_LOAD, _LINK_CREATE = 321, 0, 2, 3, 5, 28
_HASH, _SOCKMAP, _SK_LOOKUP_PROGRAM, _SK_LOOKUP = 1, 15, 30, 36
_PSEUDO_MAP_FD, _NO_PREALLOC = 1, 1
_MOST = 4096
"""Connections that are let through at a time."""
# struct bpf_sk_lookup
_FAMILY, _PROTOCOL, _REMOTE_PORT, _LOCAL_IP4, _LOCAL_IP6, _LOCAL_PORT = 8, 12, 36, 40, 44, 60
_LOOKUP, _SK_RELEASE, _SK_ASSIGN = 1, 86, 124
_LOAD, _LOAD_IMM, _STORE = 0x61, 0x18, 0x63
_MOVE, _MOVE_IMM, _ADD_IMM, _AND_IMM, _SHIFT_IMM, _OR = 0xBF, 0xB7, 0x07, 0x57, 0x67, 0x4F
_JUMP, _IF_SAME, _UNLESS_SAME, _CALL, _EXIT = 0x05, 0x15, 0x55, 0x85, 0x95


def _program(sockets: int, answered: int) -> bytes:
    """The instructions, each struct bpf_insn, with the maps of the sockets and of the known connections."""
    made: list[tuple[int, int, int, int, int]] = []
    targets: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []

    def add(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0, to: str = "") -> None:
        if to:
            jumps.append((len(made), to))
        made.append((code, dst, src, off, imm))

    def mark(name: str) -> None:
        targets[name] = len(made)

    add(_MOVE, 6, 1)
    add(_LOAD, 2, 6, _PROTOCOL)
    add(_UNLESS_SAME, 2, imm=socket.IPPROTO_TCP, to="pass")
    add(_MOVE_IMM, 7, imm=0)
    add(_LOAD, 2, 6, _FAMILY)
    add(_IF_SAME, 2, imm=socket.AF_INET6, to="inet6")
    add(_LOAD, 2, 6, _LOCAL_IP4)
    add(_AND_IMM, 2, imm=0xFF)  # the first byte of four
    add(_UNLESS_SAME, 2, imm=127, to="pass")
    add(_JUMP, to="assign")
    mark("inet6")
    for part, value in enumerate((0, 0, 0, int.from_bytes(b"\0\0\0\1", "little"))):
        add(_LOAD, 2, 6, _LOCAL_IP6 + 4 * part)
        add(_UNLESS_SAME, 2, imm=value, to="pass")
    add(_MOVE_IMM, 7, imm=1)
    mark("assign")
    add(_LOAD, 2, 6, _REMOTE_PORT)
    add(_STORE, 10, 2, -16)
    add(_LOAD, 2, 6, _LOCAL_PORT)
    add(_MOVE, 3, 7)
    add(_SHIFT_IMM, 3, imm=16)
    add(_OR, 2, 3)
    add(_STORE, 10, 2, -12)
    add(_MOVE, 2, 10)
    add(_ADD_IMM, 2, imm=-16)
    add(_LOAD_IMM, 1, _PSEUDO_MAP_FD, imm=answered)
    add(0)
    add(_CALL, imm=_LOOKUP)
    add(_UNLESS_SAME, 0, imm=0, to="listener")
    add(_ADD_IMM, 7, imm=2)  # to the one that is deaf
    mark("listener")
    add(_STORE, 10, 7, -4)
    add(_MOVE, 2, 10)
    add(_ADD_IMM, 2, imm=-4)
    add(_LOAD_IMM, 1, _PSEUDO_MAP_FD, imm=sockets)
    add(0)
    add(_CALL, imm=_LOOKUP)
    add(_IF_SAME, 0, imm=0, to="pass")
    add(_MOVE, 7, 0)
    add(_MOVE, 1, 6)
    add(_MOVE, 2, 7)
    add(_MOVE_IMM, 3, imm=0)
    add(_CALL, imm=_SK_ASSIGN)
    add(_MOVE, 1, 7)
    add(_CALL, imm=_SK_RELEASE)
    mark("pass")
    add(_MOVE_IMM, 0, imm=1)  # SK_PASS: without a socket, to the listener of that port
    add(_EXIT)
    for index, name in jumps:
        code, dst, src, _, imm = made[index]
        made[index] = (code, dst, src, targets[name] - index - 1, imm)
    return b"".join(struct.pack("<BBhi", code, src << 4 | dst, off, imm) for code, dst, src, off, imm in made)


def _address(data: bytes) -> int:
    """The address of its bytes, while it exists. ctypes' own buffers would make a type for each length."""
    return int(ctypes.c_void_p.from_buffer(ctypes.c_char_p(data)).value or 0)


def _bpf(command: int, layout: str, *values: int | bytes) -> int:
    """bpf(2); OSError."""
    attributes = struct.pack(layout, *values)
    result = int(libc.syscall(_BPF, command, attributes, len(attributes)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Steering:
    """Until it is closed, connections to loopback addresses in this thread's network namespace go to these sockets.

    :param sockets: for each family the serving socket, then for each family the one for clients that are served later
    :raises OSError: the kernel does not support it, or we may not use it
    """

    def __init__(self, sockets: Sequence[socket.socket | None]) -> None:
        self._link = -1
        fds: list[int] = []
        self._answered = _bpf(_MAP_CREATE, "=5I", _HASH, 8, 4, _MOST, _NO_PREALLOC)
        try:
            fds.append(places := _bpf(_MAP_CREATE, "=4I", _SOCKMAP, 4, 8, len(sockets)))
            for index, sock in enumerate(sockets):
                if sock is not None:
                    _update(places, index.to_bytes(4, "little"), sock.fileno().to_bytes(8, "little"))
            code, words, name = _program(places, self._answered), b"Apache-2.0", b"pyvmm_loopback"
            head = (_SK_LOOKUP_PROGRAM, len(code) // 8, _address(code), _address(words), 0, 0, 0, 0, 0)
            fds.append(program := _bpf(_PROG_LOAD, "=2I2Q2IQ2I16s2I", *head, name, 0, _SK_LOOKUP))
            fds.append(namespace := os.open(_NETNS, os.O_RDONLY | os.O_CLOEXEC))
            self._link = _bpf(_LINK_CREATE, "=4I", program, namespace, _SK_LOOKUP, 0)
        except BaseException:
            os.close(self._answered)
            raise
        finally:
            for fd in fds:
                os.close(fd)

    def let(self, family: int, client: int, server: int) -> None:
        """Serve a connection between two ports from now on.

        :param family: 0 or 1, the index of its socket
        """
        _update(self._answered, _ports(family, client, server), bytes(4))

    def forget(self, family: int, client: int, server: int) -> None:
        """The next connection with the same ports waits again."""
        key = _ports(family, client, server)
        try:
            _bpf(_MAP_DELETE_ELEM, "=I4xQ", self._answered, _address(key))
        except FileNotFoundError:
            pass  # it was not let

    def close(self) -> None:
        """End it."""
        os.close(self._link)
        os.close(self._answered)


def _update(of: int, key: bytes, value: bytes) -> None:
    _bpf(_MAP_UPDATE_ELEM, "=I4x3Q", of, _address(key), _address(value), 0)


def _ports(family: int, client: int, server: int) -> bytes:
    """In the program's form: the client's port in network byte order."""
    return struct.pack("<2I", socket.htons(client), server | family << 16)
