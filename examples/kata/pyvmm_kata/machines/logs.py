"""``pyvmm logs``: the output of containers of ``pyvmm run -d``."""

from __future__ import annotations

import collections
import os
import sys
from typing import IO, TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import ConfigError
from pyvmm_kata.machines import keeper
from pyvmm_kata.machines.options import add_name, attempt, new_parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from pyvmm_kata.machines.records import Machine

SUMMARY = "print the output of a container of `pyvmm run -d`"
_AGAIN_S = 0.2


class Entry(NamedTuple):
    """A record of a log.

    :ivar stream: ``stdout`` or ``stderr``
    :ivar ends: the record completes a line
    """

    time: str
    stream: str
    ends: bool
    text: bytes


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    made = new_parser("logs", "Print what a container of `pyvmm run -d` has written: the last 2 to 4 MiB.")
    made.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    made.add_argument("-n", "--tail", type=int, default=-1, metavar="N", help="the last N lines alone")
    made.add_argument("-t", "--timestamps", action="store_true", help="begin each line with its time")
    add_name(made)
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(argv)
    from pyvmm_kata.machines import records

    def show() -> int:
        found = records.find(options.root, options.name)
        output = _Output(as_json=options.json, timestamps=options.timestamps)
        with _Files(found) as files:
            entries: Iterable[Entry] = files.present()
            for entry in last_lines(entries, options.tail) if options.tail >= 0 else entries:
                output.write(entry)
            output.flush()
            if options.follow:
                for entry in files.more():
                    output.write(entry)
        output.flush()
        return 0

    return attempt(show)


def last_lines(entries: Iterable[Entry], count: int) -> Iterator[Entry]:
    """The entries of the last lines."""
    lines: collections.deque[list[Entry]] = collections.deque(maxlen=count)
    unfinished: dict[str, list[Entry]] = {}
    for entry in entries:
        line = unfinished.get(entry.stream)
        if line is None:
            line = unfinished[entry.stream] = []
            lines.append(line)
        line.append(entry)
        if entry.ends:
            del unfinished[entry.stream]
    for line in lines:
        yield from line


class _Files:
    """The current and the rotated log file of a container.

    :raises ConfigError: the container keeps no log
    """

    def __init__(self, found: Machine) -> None:
        self._machine = found
        self._path = os.path.join(found.folder, keeper.LOG)
        self._old: IO[bytes] | None = None
        try:
            self._file = open(self._path, "rb")  # noqa: SIM115
        except OSError as error:
            raise ConfigError(
                f"{found.name} keeps no log", code="container-log", hint="containers of `pyvmm run -d` do"
            ) from error
        self._rest = b""

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def present(self) -> Iterator[Entry]:
        """The entries that have been written so far."""
        try:
            with open(os.path.join(self._machine.folder, keeper.OLD_LOG), "rb") as old:
                if not os.path.samestat(os.fstat(old.fileno()), os.fstat(self._file.fileno())):
                    yield from filter(None, map(_parse, old))
        except OSError:
            pass  # there is no rotated log
        yield from self._read()

    def more(self) -> Iterator[Entry]:
        """The entries that follow, until the container ends."""
        while not self._machine.wait(_AGAIN_S):
            yield from self._new()
        _wait_for_keeper(self._machine)
        yield from self._new()

    def _new(self) -> Iterator[Entry]:
        yield from self._read()
        while self._is_replaced():
            yield from self._read()  # what came until then
            self._file.close()
            self._file = open(self._path, "rb")  # noqa: SIM115
            yield from self._read()
        sys.stdout.flush()

    def _is_replaced(self) -> bool:
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except OSError:
            return False  # it has been removed

    def _read(self) -> Iterator[Entry]:
        for line in self._file:
            line, self._rest = self._rest + line, b""
            if not line.endswith(b"\n"):
                self._rest = line  # it is being written
            elif (entry := _parse(line)) is not None:
                yield entry


def _wait_for_keeper(found: Machine) -> None:
    """Wait until the log of a container that has ended is complete."""
    import socket

    try:
        place = os.open(found.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # it has been removed
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(f"/proc/self/fd/{place}/{keeper.SOCKET}")
            while sock.recv(1 << 16):
                pass
    except OSError:
        pass  # it has ended
    finally:
        os.close(place)


def _parse(line: bytes) -> Entry | None:
    words = line.rstrip(b"\n").split(b" ", 3)
    if len(words) != 4:
        return None
    return Entry(words[0].decode(), words[1].decode(), words[2] == b"F", words[3])


class _Output:
    """Prints entries, each to its stream."""

    def __init__(self, *, as_json: bool, timestamps: bool) -> None:
        self._json, self._timestamps = as_json, timestamps
        self._begun: dict[str, bool] = {}

    def write(self, entry: Entry) -> None:
        if self._json:
            import json

            text = entry.text.decode(errors="replace") + "\n" * entry.ends
            print(json.dumps({"time": entry.time, "stream": entry.stream, "text": text}))
            return
        out = sys.stdout.buffer if entry.stream == "stdout" else sys.stderr.buffer
        if self._timestamps and not self._begun.get(entry.stream):
            out.write(entry.time.encode() + b" ")
        self._begun[entry.stream] = not entry.ends
        out.write(entry.text + b"\n" * entry.ends)

    def flush(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
