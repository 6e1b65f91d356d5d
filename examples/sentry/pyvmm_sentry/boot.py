"""Runs a program in a virtual machine whose kernel is the Sentry."""

from __future__ import annotations

import os
import re
import struct
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pyvmm_sentry.terminal import Terminal
from vmm import (
    BalloonConfig,
    BootConfig,
    ConsoleConfig,
    EndEvent,
    HostError,
    Machine,
    MachineConfig,
    MemoryConfig,
    NetConfig,
    ShareConfig,
    VsockConfig,
)

MIB = 1 << 20
_REFUSED = re.compile(rb"sentry: ([^\n]*)\n\Z")
CANNOT_RUN = 126
_RECORD = struct.Struct("<8s3Q7I36s")
"""Of `kvm/start.c`: magic, size, real path, directory, user, group, flags, how many arguments, variables, and tasks at
most; the streams that are a terminal, and its modes."""
_MAGIC = b"\x7fSentry\0"
_PAGE = 4096
NETWORK = NetConfig("user", mtu=16000)
"""That of the host, by passt; its packets are the largest that `core/virtio/net.c` has buffers for."""
CPUS = 32
"""The most that `kvm/cpu.c` starts."""
KERNEL_MOST = 64 << 10
"""Bytes of the kernel's own text that are kept."""
_MARK, _HEAD, _END, POINT = 1, 4, 3, 4
"""Of `kvm/frames.c`."""
POINT_SIZE = 8
"""Bytes of a point that the program has reached: kind and value, see `enum point` of `core/platform.h`."""
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
    :ivar directory: in which the program starts; None: the root
    :ivar hooks: the path of the unix sockets by which the host connects to decide system calls: the program starts then
        (:mod:`pyvmm_sentry.hooks`); None: nobody does
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
    hooks: str | None = None
    directory: str | None = None

    def record(self) -> bytes:
        """The initrd: how to start the program, and the program if it is not in the root."""
        real = self.path if self.root is not None else os.path.realpath(self.path)
        texts = [os.fsencode(text) for text in (real, self.directory or "", *self.words)]
        texts += [os.fsencode(f"{name}={value}") for name, value in self.environment.items()]
        argc, envc = len(self.words), len(self.environment)
        at = _RECORD.size + 8 * (argc + envc + 2)
        places = []
        for text in texts:
            places.append(at)
            at += len(text) + 1
        size = -(-at // _PAGE) * _PAGE
        words = [*places[2 : argc + 2], 0, *places[argc + 2 :], 0]
        terminal = (self.terminal.streams, self.terminal.modes) if self.terminal else (0, b"")
        counts = (self.strace, argc, envc, self.pids)
        directory = places[1] if self.directory is not None else 0
        head = _RECORD.pack(_MAGIC, size, places[0], directory, os.getuid(), os.getgid(), *counts, *terminal)
        record = b"".join((head, struct.pack(f"<{len(words)}Q", *words), b"\0".join([*texts, b""])))
        program = b"" if self.root is not None else Path(self.path).read_bytes()
        return record.ljust(size, b"\0") + program


class Frames:
    """Separates what comes from the console: streams of the program, its end, and what the kernel itself prints.

    :param put: called with the number of a stream, and what the program wrote to it
    :ivar status: of the program, below 0 the signal that ended it; None: it has not ended
    :ivar kernel: the last of what the kernel printed
    """

    def __init__(self, put: Callable[[int, memoryview], None]) -> None:
        self._put = put
        self.status: int | None = None
        self.kernel = b""
        self._rest = b""

    def feed(self, new: bytes) -> None:
        """Sort what has come."""
        data, at = self._rest + new, 0
        view = memoryview(data)
        while at < len(data):
            if data[at] != _MARK:
                mark = data.find(_MARK, at)
                end = len(data) if mark < 0 else mark
                self.kernel = (self.kernel + data[at:end])[-KERNEL_MOST:]
                at = end
                continue
            if at + _HEAD > len(data):
                break
            stream, size = data[at + 1], int.from_bytes(data[at + 2 : at + _HEAD], "little")
            if at + _HEAD + size > len(data):
                break
            self._sort(stream, view[at + _HEAD : at + _HEAD + size])
            at += _HEAD + size
        self._rest = data[at:]

    def _sort(self, stream: int, data: memoryview) -> None:
        if stream == _END and len(data) == 2:
            self.status = -data[1] or data[0]
        elif stream in (0, 1, 2) or (stream == POINT and len(data) == POINT_SIZE):
            self._put(stream, data)
        else:
            self.kernel = (self.kernel + data)[-KERNEL_MOST:]

    @property
    def refused(self) -> str:
        """Why the kernel did not start the program, or empty."""
        found = _REFUSED.fullmatch(self.kernel)
        return found[1].decode(errors="replace") if found else ""


class Output:
    """Copies what comes from the console to this process's own streams."""

    def __init__(self, terminal: Terminal | None = None) -> None:
        self._terminal = terminal
        self.reader, self.writer = os.pipe()
        self.frames = Frames(self._put)
        self._thread = threading.Thread(target=self._copy)
        self._thread.start()

    def _copy(self) -> None:
        while data := os.read(self.reader, 1 << 16):
            self.frames.feed(data)

    def _put(self, stream: int, data: memoryview) -> None:
        if stream == 0 and self._terminal:
            _write(self._terminal.fd, data)
        elif stream in (1, 2):  # the kernel may not write to other descriptors of this process
            # Of a program whose errors go to the terminal, these are lines of the core itself
            raw = stream == 2 and self._terminal is not None and self._terminal.streams & 4
            _write(stream, memoryview(bytes(data).replace(b"\n", b"\r\n")) if raw else data)

    @property
    def status(self) -> int | None:
        """See :attr:`Frames.status`."""
        return self.frames.status

    @property
    def kernel(self) -> bytes:
        """See :attr:`Frames.kernel`."""
        return self.frames.kernel

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


def config_of(kernel: Path, start: Start, record: int, console: ConsoleConfig) -> MachineConfig:
    """The machine that runs a program.

    :param record: the descriptor of a file, into which the start record is written
    """
    shares: tuple[ShareConfig, ...] = ()
    if start.root is not None:
        shares = (ShareConfig(start.root, read_only=start.read_only, cache="always", locks="guest"),)
    wanted = {"sentry.scratch": start.root is not None and start.scratch, "sentry.hooks": start.hooks is not None}
    cmdline = " ".join(["quiet", "sentry.zeroed", *(word for word, is_wanted in wanted.items() if is_wanted)])
    with open(record, "wb", closefd=False) as file:
        file.write(start.record())
    return MachineConfig(
        BootConfig(str(kernel), f"/proc/self/fd/{record}", cmdline),
        MemoryConfig(start.memory * MIB),
        cpus=start.cpus,
        console=console,
        shares=shares,
        balloon=BalloonConfig(free_page_reporting=True),
        nets=(NETWORK,) if start.network else (),
        vsock=None if start.hooks is None else VsockConfig(3, start.hooks, connections=4),
    )


def run(kernel: Path, start: Start) -> int:
    """Run a program; returns its exit status, or below 0 the signal that ended it.

    :raises VmmError: the machine cannot be made, or ends without a result
    """
    initrd = os.memfd_create("start")
    output = Output(start.terminal)
    try:
        with Machine(config_of(kernel, start, initrd, ConsoleConfig("fd", output.writer, device="virtio"))) as machine:
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
    refused = output.frames.refused
    if refused and end and end.kind == "poweroff":
        print(f"pyvmm-runsc: {refused}", file=sys.stderr)
        return CANNOT_RUN
    os.write(2, output.kernel)
    raise HostError(without_result(end))


def without_result(end: EndEvent | None) -> str:
    """For errors: the machine ended, but not its program."""
    return "the machine has ended without a result" + (f": {end.kind} {end.detail}".rstrip() if end else "")
