"""Random schedules of pauses, copies and kills, while a program in a sandbox acknowledges records: none may be lost."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from pathlib import Path
from random import Random
from typing import Any

from pyvmm_sandbox import Command, Sandbox, SandboxGone

WRITER = 'while read n; do echo "$n" >>/journal && sync /journal && echo "$n"; done'
"""A record is acknowledged when fsync(2) has returned."""
DONE_S = 120.0


class Journal(threading.Thread):
    """Appends records until it is stopped, or its writer is killed.

    :param sent: numbers of records that may be there
    :param acknowledged: those that must be there, in this order
    """

    def __init__(self, box: Sandbox, sent: list[int], acknowledged: list[int]) -> None:
        super().__init__(daemon=True)
        self.box, self.sent, self.acknowledged = box, sent, acknowledged
        self._more = threading.Condition()
        self._stopped = False
        self.writer: Command = box.popen(WRITER)
        self.start()

    def run(self) -> None:
        events = iter(self.writer)
        try:
            while not self._stopped:
                number = self.sent[-1] + 1 if self.sent else 0
                self.sent.append(number)
                self.writer.write(f"{number}\n")
                text = ""
                while not text.endswith("\n"):
                    event = next(events)
                    if event.kind == "exit":
                        return
                    text += event.text
                assert text == f"{number}\n"
                with self._more:
                    self.acknowledged.append(number)
                    self._more.notify_all()
        except (OSError, SandboxGone, StopIteration):
            pass  # it was killed

    def await_records(self, count: int) -> None:
        with self._more:
            wanted = len(self.acknowledged) + count
            assert self._more.wait_for(lambda: len(self.acknowledged) >= wanted, DONE_S)

    def stop(self) -> None:
        self._stopped = True
        self.join(DONE_S)
        self.writer.close()

    def kill_writer(self) -> None:
        self.writer.kill()
        self.join(DONE_S)
        self.writer.close()


def check(text: str, must: list[int], may: list[int]) -> None:
    """
    :raises AssertionError: the journal lacks a record, or has it twice, in another order, or never sent
    """
    found = [int(line) for line in text.splitlines()]
    wanted = set(must)
    assert [number for number in found if number in wanted] == must, (found, must)
    assert set(found) <= set(may), (found, may)


def monitor_of(box: Sandbox) -> int:
    """The process that has its machine."""
    folder = os.open(box._container.folder, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(f"/proc/self/fd/{folder}/control")  # a socket's path has to be short
            pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    finally:
        os.close(folder)
    return int(pid)


class Schedule:
    """One seed's operations.

    :param image: a folder with a root file system, which the first sandbox writes to
    :param place: for templates
    :param options: of sandboxes
    """

    def __init__(self, seed: int, image: str, place: Path, options: dict[str, Any]) -> None:
        self.random = Random(seed)
        self.image, self.place, self.options = image, place, options
        self.started = {name: options[name] for name in ("config", "root") if name in options}
        Path(image, "journal").unlink(missing_ok=True)
        self.box = Sandbox(image, timeout=None, **options)
        self.is_first = True
        self.sent: list[int] = []
        self.journal = Journal(self.box, self.sent, [])

    def run(self, steps: int) -> list[str]:
        """Its operations, each of which was checked."""
        names = [
            self.random.choice(("pause", "fork", "fork_and_go_on", "snapshot", "suspend", "kill")) for _ in range(steps)
        ]
        try:
            for name in names:
                self.journal.await_records(self.random.randint(1, 5))
                getattr(self, f"do_{name}")()
            self.journal.stop()
            self.check(self.box, self.journal.acknowledged)
        finally:
            self.box.kill()
        return names

    def check(self, box: Sandbox, must: list[int]) -> None:
        check(box.files.read_text("/journal"), must, self.sent)

    def go_on(self, box: Sandbox, must: list[int]) -> None:
        """In a copy, which has at least the records that *must* be there."""
        self.journal.stop()
        self.check(self.box, self.journal.acknowledged)
        self.box.kill()
        self.box, self.is_first = box, False
        self.check(box, must)
        self.journal = Journal(box, self.sent, must)

    def do_pause(self) -> None:
        self.box.pause()
        self.box.resume()

    def do_fork(self) -> None:
        must = self.journal.acknowledged[:]
        for copy in self.box.fork(self.random.randint(1, 2)):
            with copy:
                self.check(copy, must)

    def do_fork_and_go_on(self) -> None:
        must = self.journal.acknowledged[:]
        (copy,) = self.box.fork()
        self.go_on(copy, must)

    def do_snapshot(self) -> None:
        must = self.journal.acknowledged[:]
        template = self.box.snapshot(self.place / "template")
        if self.random.random() < 0.5:
            self.go_on(template.start(timeout=None, **self.started), must)

    def do_suspend(self) -> None:
        """It continues with all that was acknowledged until it stopped."""
        template = self.box.suspend(self.place / "template")
        self.journal.join(DONE_S)
        self.box, self.is_first = template.start(timeout=None, **self.started), False
        self.check(self.box, self.journal.acknowledged)
        self.journal = Journal(self.box, self.sent, self.journal.acknowledged)

    def do_kill(self) -> None:
        """A program in the sandbox; or the machine itself, whose files are those of the folder."""
        if self.is_first and self.random.random() < 0.5:
            os.kill(monitor_of(self.box), signal.SIGKILL)
            self.journal.join(DONE_S)
            self.box.kill()
            check(Path(self.image, "journal").read_text(), self.journal.acknowledged, self.sent)
            self.box = Sandbox(self.image, timeout=None, **self.options)
        else:
            self.journal.kill_writer()
        self.check(self.box, self.journal.acknowledged)
        self.journal = Journal(self.box, self.sent, self.journal.acknowledged)
