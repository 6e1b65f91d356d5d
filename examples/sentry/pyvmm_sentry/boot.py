"""Runs a program in a virtual machine whose kernel is the Sentry."""

from __future__ import annotations

import os
import re
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pyvmm_sentry.terminal import Terminal
from vmm import (
    BalloonConfig,
    BootConfig,
    ConsoleConfig,
    HostError,
    Machine,
    MachineConfig,
    MemoryConfig,
    NetConfig,
    ShareConfig,
)

MIB = 1 << 20
REFUSED = re.compile(rb"sentry: ([^\n]*)\n\Z")
CANNOT_RUN = 126
_RECORD = struct.Struct("<8sQQ7I36s")
"""Of `kvm/start.c`: magic, size, real path, user, group, flags, how many arguments, variables, and tasks at most; the
streams that are a terminal, and its modes."""
_MAGIC = b"\x7fSentry\0"
_PAGE = 4096
_MTU = 16000
"""The most that `core/virtio/net.c` has buffers for."""
CPUS = 32
"""The most that `kvm/cpu.c` starts."""
_MARK, _HEAD, _END = 1, 4, 3
"""Of `kvm/frames.c`."""
_ESCAPED = re.compile(rb"[\x04\x10]")


class Start(NamedTuple):
    """What a machine runs.

    :ivar path: of the program, on the host or in *root*
    :ivar root: a directory of the host as the root, or None: the program alone
    :ivar memory: MiB
    :ivar pids: how many tasks there may be at once
    :ivar read_only: the server refuses all changes of *root* (EROFS)
    :ivar scratch: they stay in the machine's memory instead
    :ivar network: the host's networks, through passt
    :ivar strace: print system calls to standard error
    :ivar cpus: of the machine
    :ivar terminal: that of the program, or None
    """

    path: str
    words: Sequence[str]
    environment: Mapping[str, str]
    memory: int = 256
    pids: int = 1024
    root: str | None = None
    read_only: bool = True
    strace: bool = False
    scratch: bool = False
    network: bool = False
    cpus: int = 1
    terminal: Terminal | None = None

    def record(self) -> bytes:
        """The initrd: how to start the program, and the program if it is not in the root."""
        real = self.path if self.root is not None else os.path.realpath(self.path)
        texts = [os.fsencode(text) for text in (real, *self.words)]
        texts += [os.fsencode(f"{name}={value}") for name, value in self.environment.items()]
        argc, envc = len(self.words), len(self.environment)
        at = _RECORD.size + 8 * (argc + envc + 2)
        places = []
        for text in texts:
            places.append(at)
            at += len(text) + 1
        size = -(-at // _PAGE) * _PAGE
        words = [*places[1 : argc + 1], 0, *places[argc + 1 :], 0]
        terminal = (self.terminal.streams, self.terminal.modes) if self.terminal else (0, b"")
        counts = (self.strace, argc, envc, self.pids)
        head = _RECORD.pack(_MAGIC, size, places[0], os.getuid(), os.getgid(), *counts, *terminal)
        record = b"".join((head, struct.pack(f"<{len(words)}Q", *words), b"\0".join([*texts, b""])))
        program = b"" if self.root is not None else Path(self.path).read_bytes()
        return record.ljust(size, b"\0") + program


class Output:
    """Sorts what comes from the console: streams of the program, its end, and what the kernel itself prints."""

    def __init__(self, terminal: Terminal | None = None) -> None:
        self._terminal = terminal
        self.reader, self.writer = os.pipe()
        self.status: int | None = None
        """Of the program, below 0 the signal that ended it; None: it has not ended."""
        self.kernel = b""
        self._rest = b""
        self._thread = threading.Thread(target=self._copy)
        self._thread.start()

    def _copy(self) -> None:
        while data := os.read(self.reader, 1 << 16):
            self._rest += data
            self._sort()

    def _sort(self) -> None:
        data = memoryview(self._rest)
        at = 0
        while at < len(data):
            if data[at] != _MARK:
                self.kernel += data[at : at + 1]
                at += 1
                continue
            if at + _HEAD > len(data):
                break
            stream, size = data[at + 1], int.from_bytes(data[at + 2 : at + _HEAD], "little")
            if at + _HEAD + size > len(data):
                break
            self._put(stream, data[at + _HEAD : at + _HEAD + size])
            at += _HEAD + size
        self._rest = bytes(data[at:])

    def _put(self, stream: int, data: memoryview) -> None:
        if stream == _END and len(data) == 2:
            self.status = -data[1] or data[0]
        elif stream == 0 and self._terminal:
            _write(self._terminal.fd, data)
        elif stream in (1, 2):  # the kernel may not write to other descriptors of this process
            # Of a program whose errors go to the terminal, these are lines of the core itself
            raw = stream == 2 and self._terminal is not None and self._terminal.streams & 4
            _write(stream, memoryview(bytes(data).replace(b"\n", b"\r\n")) if raw else data)
        else:
            self.kernel += data

    def close(self) -> None:
        """Wait until everything is copied."""
        os.close(self.writer)
        self._thread.join()
        os.close(self.reader)


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _input() -> bytes:
    """More of standard input; nothing at its end."""
    try:
        return os.read(0, 4096)
    except OSError:  # the terminal has hung up
        return b""


def _copy_input(machine: Machine) -> None:
    """Copy standard input to the console, and then Ctrl-D: a console has no other end of input."""
    space = threading.Event()
    machine.console.space_callback = space.set

    def put(data: bytes) -> None:
        while data:
            space.clear()
            data = data[machine.console_input(data) :]
            if data:
                space.wait()

    while data := _input():
        put(_ESCAPED.sub(lambda found: bytes((0x10, found[0][0] ^ 0x40)), data))
    put(b"\x04")


def run(kernel: Path, start: Start) -> int:
    """Run a program; returns its exit status, or below 0 the signal that ended it.

    :raises VmmError: the machine cannot be made, or ends without a result
    """
    shares: tuple[ShareConfig, ...] = ()
    if start.root is not None:
        shares = (ShareConfig(start.root, read_only=start.read_only, cache="always", locks="guest"),)
    scratch = start.root is not None and start.scratch
    initrd = os.memfd_create("start")
    output = Output(start.terminal)
    try:
        with open(initrd, "wb", closefd=False) as file:
            file.write(start.record())
        config = MachineConfig(
            BootConfig(str(kernel), f"/proc/self/fd/{initrd}", "quiet sentry.scratch" if scratch else "quiet"),
            MemoryConfig(start.memory * MIB),
            cpus=start.cpus,
            console=ConsoleConfig("fd", output.writer, device="virtio"),
            shares=shares,
            balloon=BalloonConfig(free_page_reporting=True),
            nets=(NetConfig("user", mtu=_MTU),) if start.network else (),
        )
        with Machine(config) as machine:
            if start.terminal:
                start.terminal.on_resize(getattr(machine.console, "resize", lambda *_: None))
            machine.start()
            threading.Thread(target=_copy_input, args=(machine,), daemon=True).start()
            end = machine.wait()
    finally:
        output.close()
        os.close(initrd)
        if start.terminal:
            start.terminal.restore()
    if output.status is not None:
        return output.status
    refused = REFUSED.fullmatch(output.kernel)
    if refused and end and end.kind == "poweroff":
        print(f"pyvmm-runsc: {refused[1].decode(errors='replace')}", file=sys.stderr)
        return CANNOT_RUN
    os.write(2, output.kernel)
    raise HostError("the machine has ended without a result" + (f": {end.kind} {end.detail}".rstrip() if end else ""))
