"""`pyvmm boot` as a process that a test starts, types at, signals and reads; and what it may leave behind."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from tools.where import PYVMM

PATIENCE = 240.0
MARK = "PYVMM_TEST_MARK"


def descriptors() -> int:
    """How many descriptors this process has, but for those that a test before has left to the garbage collector.

    Threads that such a test has left may close some of theirs later: compare two counts by ``<=``.
    """
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def links_of(process: int | str = "self") -> dict[str, str]:
    """What the descriptors of a process are of, by their numbers."""
    links = {}
    for fd in os.listdir(f"/proc/{process}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed, as that of the listing itself
            links[fd] = os.readlink(f"/proc/{process}/fd/{fd}")
    return links


def of_threads(name: str, process: int | str = "self") -> dict[int, str]:
    """What the file *name* says of each thread of a process, by its number; none of threads that have ended."""
    found = {}
    with contextlib.suppress(FileNotFoundError):  # the process has ended
        for thread in os.listdir(f"/proc/{process}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # this thread has, since it was listed
                found[int(thread)] = Path(f"/proc/{process}/task/{thread}/{name}").read_text()
    return found


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """This thread, and what it starts, may run on one CPU only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def files_of(pid: int) -> set[tuple[str, int]]:
    """Paths of the host's files that a process has open, each with its access mode (O_RDONLY, O_WRONLY, O_RDWR)."""
    found = set()
    for fd, link in links_of(pid).items():
        if link.startswith("/") and not link.startswith("/memfd:"):
            text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
            (flags,) = re.findall(r"^flags:\s*(\d+)", text, re.MULTILINE)
            found.add((link, int(flags, 8) & os.O_ACCMODE))
    return found


def not_for_a_jail(pid: int, folder: Path, writable: set[str]) -> list[tuple[str, int]]:
    """Files that a jailed machine has open, or as it should not: docs/security.md lists those that it may have.

    :param folder: files below it are the user's: they may be read
    :param writable: files that may be written
    """
    proc, read, both = f"/proc/{pid}", os.O_RDONLY, os.O_RDWR
    may = {f"{proc}/maps": read, f"{proc}/pagemap": read, "/run/pyvmm/users": read, "/dev/null": both}
    may |= {"/dev/zero": read, "/dev/urandom": read, "/dev/random": read, "/dev/kvm": both, "/dev/net/tun": both}
    may |= {"/dev/vhost-net": both, "/dev/vhost-vsock": both, "/dev/userfaultfd": both}
    may |= {f"{proc}/task/{pid}/net/dev": read}  # with vhost
    wrong = []
    for link, mode in files_of(pid):
        mine = link in writable or link.startswith(f"{folder}/")
        own = link in writable or "/stderr-" in link or link.endswith("(deleted)")
        if mode != may.get(link) and not (mine and (mode == read or own)):
            wrong.append((link, mode))
    return wrong


class Command:
    """`pyvmm boot ARGUMENTS...`, or another *verb*, in *folder*, in a session of its own.

    Standard input and output are pipes, unless there is a *terminal*: then both are that, as from a shell. Standard
    error is always a file, `errors`.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        terminal: Terminal | None = None,
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
        program: str | Path = PYVMM,
        verb: str = "boot",
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.temporary = folder / f"tmp-{self.mark}"
        self.temporary.mkdir()
        self._errors = folder / f"stderr-{self.mark}"
        self._shared = set(os.listdir("/dev/shm"))
        environment = {**os.environ, MARK: self.mark, "TMPDIR": str(self.temporary)}
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [program, verb, *arguments],
                cwd=self.temporary,
                env=environment,
                stdin=terminal.theirs if terminal else stdin,
                stdout=terminal.theirs if terminal else stdout,
                stderr=errors,
                start_new_session=True,
                preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if terminal else None,
            )
        self.output = b""

    @property
    def errors(self) -> str:
        """What it has written to standard error."""
        return self._errors.read_text()

    def type(self, data: bytes) -> None:
        """Write to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def expect(self, pattern: str) -> re.Match[str]:
        """Read its standard output until that shows *pattern*."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.text, re.MULTILINE)):
            ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
            data = os.read(fd, 1 << 16) if ready else b""
            assert data, f"no {pattern!r} in the output\n{self.text}\nstderr: {self.errors}"
            self.output += data
        return found

    @property
    def text(self) -> str:
        """Its output so far, without carriage returns."""
        return self.output.decode(errors="replace").replace("\r", "")

    def wait(self) -> int:
        """Its exit status, when it has ended; 128 + N for signal N, as a shell says. Takes the rest of its output."""
        try:
            rest, _ = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            self.close()
            self.output += error.output or b""
            raise AssertionError(f"it did not end; {self.text[-2000:]}\nstderr: {self.errors}") from None
        self.output += rest or b""
        status = self.process.returncode
        return status if status >= 0 else 128 - status

    def close(self) -> None:
        """Kill it if it runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass

    def leftovers(self) -> list[str]:
        """Processes, and files in the places for temporary ones, that are there because of it and stay.

        Its broker, and whoever makes the image of the next start, see its end a moment later.
        """
        deadline = time.monotonic() + PATIENCE
        while (found := self._found()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _found(self) -> list[str]:
        found = [f"process {pid}" for pid in processes_with(f"{MARK}={self.mark}")]
        found += [str(path) for path in self.temporary.iterdir()]
        return found + [f"/dev/shm/{name}" for name in set(os.listdir("/dev/shm")) - self._shared]


def processes_with(variable: str) -> list[int]:
    """The processes that have *variable* (NAME=VALUE) in their environment."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and variable.encode() in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                found.append(int(name))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


class Terminal:
    """A pseudo-terminal and who sits before it.

    :param path: of a terminal that somebody else has made; it is opened like a terminal program does
    """

    def __init__(self, path: str = "") -> None:
        if path:
            self.ours = self.theirs = os.open(path, os.O_RDWR | os.O_NOCTTY)
        else:
            self.ours, self.theirs = os.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.output = b""

    def type(self, keys: bytes) -> None:
        """Press *keys*."""
        os.write(self.ours, keys)

    def expect(self, text: str) -> None:
        """Wait for *text* on the screen, behind what was last waited for."""
        deadline = time.monotonic() + PATIENCE
        while text.encode() not in self.output:
            ready, _, _ = select.select([self.ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {text!r} on the terminal:\n{self.output.decode(errors='replace')}"
            self.output += os.read(self.ours, 1 << 16)
        self.output = self.output.partition(text.encode())[2]

    def settings(self) -> list[object]:
        """Its settings now; `before` has those that it was made with."""
        return termios.tcgetattr(self.theirs)

    def close(self) -> None:
        """Hang up."""
        for fd in {self.ours, self.theirs}:
            os.close(fd)


SIGNAL_STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


def python_is_for_all() -> bool:
    """Whether other users can run this Python: one in root's home directory they cannot."""
    paths = {Path(sys.executable).resolve(), Path(os.__file__).resolve()}
    return all(folder.stat().st_mode & 0o005 == 0o005 for path in paths for folder in path.parents)
