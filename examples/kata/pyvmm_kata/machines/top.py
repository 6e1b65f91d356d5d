"""``pyvmm top``: the processes of a container."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import GuestError
from pyvmm_kata.machines import live
from pyvmm_kata.machines.options import add_name, attempt, new_parser, printable, size_text, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pyvmm_kata.machines.records import Machine

SUMMARY = "list the processes of a container"
_HEAD = ("PID", "PPID", "UID", "S", "THREADS", "RSS", "CPU", "COMMAND")
_LIVE_HEAD = (*_HEAD[:-1], "% NOW", _HEAD[-1])
_STATE, _PARENT, _USER, _SYSTEM, _THREADS, _PAGES = 0, 1, 11, 12, 17, 21
"""Fields of a stat behind the name (proc_pid_stat(5))."""
_PAGE = 4096
_TICKS = 100


class Process(NamedTuple):
    """A process of a container, by the numbers of its own namespace.

    :ivar rss: bytes
    :ivar cpu: seconds
    """

    pid: int
    parent: int
    uid: int
    state: str
    threads: int
    rss: int
    cpu: float
    command: str


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    made = new_parser(
        "top", "List the processes of a container, by their numbers inside: on a terminal live, until q or Ctrl-C."
    )
    live.add_options(made)
    add_name(made)
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(argv)
    live.check_options(options, parser())
    view = _View(options.root, options.name)
    return attempt(lambda: live.show(view, options, f"pyvmm top {options.name}"))


class _View:
    """The processes; from the second sample on those first that use most of a CPU."""

    def __init__(self, root: str, name: str) -> None:
        self._root, self._name = root, name
        self._processes: list[Process] = []
        self._used: dict[int, float] | None = None
        self._time = 0.0

    def sample(self) -> None:
        from pyvmm_kata.machines import records

        found = records.find(self._root, self._name)
        found.expect("running", "paused")
        now, processes = time.monotonic(), processes_of(found)
        if self._processes:
            before = {each.pid: each.cpu for each in self._processes}
            span = max(now - self._time, 1e-3)
            self._used = {each.pid: max(0.0, each.cpu - before.get(each.pid, 0.0)) / span for each in processes}
        self._processes, self._time = processes, now

    def text(self) -> str:
        used = self._used
        if used is None:
            return table([_HEAD, *map(_row, self._processes)])
        processes = sorted(self._processes, key=lambda each: (-used[each.pid], each.pid))
        rows = [(*row[:-1], f"{100 * used[each.pid]:.1f}", row[-1]) for each in processes for row in (_row(each),)]
        return table([_LIVE_HEAD, *rows])

    def json(self) -> object:
        return [each._asdict() for each in self._processes]


def processes_of(found: Machine) -> list[Process]:
    """By pid.

    :raises VmmError: the guest does not answer, or with nonsense
    """
    from pyvmm_kata.host.procfs import read_listing
    from pyvmm_kata.protocol import control

    text = control.fetch(found.folder, "processes")
    try:
        return [_process(pid, files) for pid, files in sorted(read_listing(text).processes.items())]
    except (ValueError, IndexError) as error:
        raise GuestError(f"{found.name}: the guest's list of processes is invalid", code="agent-answer") from error


def _process(pid: int, files: Mapping[str, bytes]) -> Process:
    name, _, rest = files["stat"].partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    uid = next(int(line.split()[1]) for line in files["status"].split(b"\n") if line.startswith(b"Uid:"))
    words = files["cmdline"].rstrip(b"\0").replace(b"\0", b" ")
    ticks = int(fields[_USER]) + int(fields[_SYSTEM])
    return Process(
        pid,
        int(fields[_PARENT]),
        uid,
        fields[_STATE].decode("ascii", "replace"),
        int(fields[_THREADS]),
        int(fields[_PAGES]) * _PAGE if len(fields) > _PAGES else 0,
        ticks / _TICKS,
        os.fsdecode(words or b"[" + name + b"]"),
    )


def _row(each: Process) -> tuple[str, ...]:
    numbers = (str(each.pid), str(each.parent), str(each.uid), printable(each.state), str(each.threads))
    return (*numbers, size_text(each.rss), f"{each.cpu:.2f} s", printable(each.command))
