"""Attackers on the platforms that are processes of the host: in the core, in an application, and who makes a root.

``make fuzz-sentry ARGS="--calls 3600"`` runs the second one for longer.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm_sentry import program
from pyvmm_sentry.share import Share
from tests.kata.oci_runtime import PATIENCE
from tests.sentry.conftest import SRC, Compile
from tests.sentry.test_programs import BUSYBOX
from tests.sentry.test_share import run_program
from tests.sentry.test_trap import changed

SECONDS = 5
MIB = 1 << 20
LAST = 470
"""One more than the last number of a system call that is tried."""
CALL = """extern char *getenv(const char *);
extern long atol(const char *);
static bool made;
long result;
if (!made) {
made = true;
__asm__ volatile("syscall" : "=a"(result)
: "a"(atol(getenv("CALL"))), "D"(-1l), "S"(-1l), "d"(-1l) : "rcx", "r11", "memory");
}
return answer(stub, value);"""
"""Makes a call with bad arguments, before the core answers the first one of its program."""
FREE = {
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "setitimer": 38,
    "wait4": 61,
    "clock_gettime": 228,
}
FREE |= {"exit_group": 231, "ppoll": 271, "getrandom": 318}
"""Calls that the core's list allows with any arguments."""


KERNELS = {335, 336}
"""uretprobe, uprobe: the kernel asks no filter, and ends a process without such probes by SIGILL."""


@pytest.mark.parametrize("count", [40, pytest.param(LAST, marks=pytest.mark.long)])
def test_a_core_that_was_taken_over_has_the_calls_of_its_list(tmp_path: Path, count: int) -> None:
    """Each number is tried in a core of its own; all but a few end it."""
    head = "bool stub_answer_call(struct stub *stub, u64 value)\n{\n\t"
    bad = changed(tmp_path / "trap", "stub.c", head + "return answer(stub, value);", head + CALL)

    def end(number: int) -> int:
        command = [str(bad), "--", BUSYBOX, "true"]
        return subprocess.run(command, env={"CALL": str(number)}, capture_output=True, timeout=PATIENCE).returncode

    numbers = sorted(
        {*FREE.values(), *random.sample(sorted({*range(LAST)} - KERNELS), min(count, LAST - len(KERNELS)))}
    )
    with ThreadPoolExecutor(4) as pool:
        ends = dict(zip(numbers, pool.map(end, numbers), strict=True))
    assert {number for number, status in ends.items() if status != -signal.SIGSYS} == set(FREE.values())


def new_seed() -> int:
    """A random one, which messages about failures contain."""
    return random.SystemRandom().randrange(1 << 32)


class Watch:
    """Reports whatever happens to a directory and the files in it (inotify(7))."""

    _ALL = 0xFFF

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for each in (path, *path.rglob("*")):
            assert self._libc.inotify_add_watch(self._fd, os.fsencode(each), self._ALL) > 0

    def seen(self) -> bytes:
        """Events; none: nothing was opened, read or changed."""
        try:
            return os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """End it."""
        os.close(self._fd)


@contextmanager
def watched(folder: Path) -> Iterator[tuple[Path, Watch]]:
    """A directory of the host that nobody may touch, as its modes allow everybody."""
    outside = folder / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret of the host\n")
    (outside / "folder").mkdir()
    (outside / "secret").chmod(0o666)
    for each in (outside, outside / "folder"):
        each.chmod(0o777)
    watch = Watch(outside)
    try:
        yield outside, watch
    finally:
        watch.close()


def attack(attacker: Path, platform: Path, folder: Path, seconds: int, seed: int) -> str:
    """Run the attacker in a shared directory; what it prints."""
    root = folder / "root"
    for name in ("bin", "dev", "proc", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(attacker, root / "bin" / "attacker")
    (root / "etc" / "file").write_text("a file\n" * 1000)
    with watched(folder) as (outside, watch):
        up = "../" * 20 + str(outside).lstrip("/")
        names = [str(outside), f"{outside}/secret", up, f"{up}/secret", f"/proc/self/root{outside}/secret"]
        names += ["/etc/file", "/etc", "/proc/self/mem", "/dev/null", "/tmp/new", ".", ""]
        with Share(str(root), 256 * MIB) as share:
            fds = ",".join(str(fd) for fd in share.fds)
            words = ["--memory", "256", "--share", fds, "--", "/bin/attacker", str(seed), str(seconds), *names]
            done = subprocess.run(
                [platform, *words], pass_fds=share.fds, capture_output=True, timeout=seconds + PATIENCE
            )
        assert (done.returncode, done.stderr[-2000:]) == (0, b""), f"seed {seed}"
        assert watch.seen() == b"", f"seed {seed}"
        assert sorted(each.name for each in outside.iterdir()) == ["folder", "secret"]
        assert sorted(each.name for each in folder.iterdir()) == ["outside", "root"]
    return done.stdout.decode()


def test_calls_of_every_number_harm_nobody(compile_static: Compile, platform: Path, tmp_path: Path) -> None:
    """With random arguments, while the memory that they point to changes; the core lives to its end."""
    printed = attack(
        compile_static("every_call"), platform, tmp_path, SECONDS, random.SystemRandom().randrange(1 << 32)
    )
    assert int(printed.removesuffix(" rounds\n")) > 0


HOSTILE = """
cd /hostile
ls -lanR . > /dev/null
find . -print0 > /dev/null
timeout 1 cat fifo
for each in * .hidden; do
    test -p "$each" && continue
    cat "$each"
    echo changed >> "$each"
    rm -rf "$each/secret"
    mkdir "$each/new"
    stat -L "$each"
done > /tmp/read 2> /dev/null
cat /tmp/read
cp -a . /tmp/copy 2> /dev/null
rm -rf /hostile/* 2> /dev/null
echo done
"""


def fill(place: Path, outside: Path) -> None:
    """Names and files that a root should not have."""
    place.mkdir()
    up = "../" * 30 + str(outside).lstrip("/")
    links = {"absolute": str(outside), "to-secret": f"{outside}/secret", "up": up, "up-secret": f"{up}/secret"}
    links |= {
        "root": "/",
        "parent": "..",
        "self": "self",
        "a": "b",
        "b": "a",
        "proc": "/proc/1/root",
        "fd": "/proc/self/fd/3",
    }
    links |= {"long": "x/" * 2000, "new\nline": f"{outside}/secret", "through": "absolute/folder"}
    for name, target in links.items():
        (place / name).symlink_to(target)
    for each in (b"bad-\xff\xfe", b"-rf", b"$(reboot)", b"`x`", b"\x1b[2J", b"n" * 255, b"a\nb\tc", b"*", b".hidden"):
        (Path(os.fsdecode(os.fsencode(place) + b"/" + each))).write_bytes(b"x")
    os.mkfifo(place / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        there = os.open(place, os.O_PATH)
        sock.bind(f"/proc/self/fd/{there}/socket")
        os.close(there)
    if os.geteuid() == 0:
        os.mknod(place / "null", 0o666 | 0o020000, os.makedev(1, 3))
        os.mknod(place / "memory", 0o666 | 0o020000, os.makedev(1, 1))
        os.mknod(place / "disk", 0o666 | 0o060000, os.makedev(7, 250))
    (place / "setuid").write_bytes(b"#!/bin/sh\n")
    (place / "setuid").chmod(0o6777)
    (place / "closed").mkdir()
    (place / "closed" / "file").touch()
    (place / "closed").chmod(0)
    deep = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(600):  # a path longer than PATH_MAX
        os.mkdir("deeper", dir_fd=deep)
        below = os.open("deeper", os.O_RDONLY | os.O_DIRECTORY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)


def test_a_hostile_root_leads_nowhere(platform: Path, tmp_path: Path) -> None:
    """Links out of it, loops, FIFOs, device nodes, a deep tree, names with line ends: all are listed, read and removed,
    and nothing outside is."""
    root = tmp_path / "root"
    for name in ("bin", "dev", "proc", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    for name in ("sh", "ls", "find", "cat", "rm", "mkdir", "stat", "cp", "test", "timeout"):
        (root / "bin" / name).symlink_to("busybox")
    with watched(tmp_path) as (outside, watch):
        fill(root / "hostile", outside)
        watch.seen()
        with Share(str(root), 256 * MIB) as share:
            done = run_program(share, platform, "/bin/sh", "-c", f"export PATH=/bin\n{HOSTILE}")
        assert (done.returncode, done.stdout.endswith(b"done\n")) == (0, True), done
        assert b"secret of the host" not in done.stdout
        assert watch.seen() == b""
        assert (outside / "secret").read_text() == "secret of the host\n"
        assert sorted(each.name for each in outside.iterdir()) == ["folder", "secret"]
    assert sorted(os.listdir(root / "hostile")) == [".hidden", "deeper"]  # rm names files by their paths


def main(seconds: int, seed: int) -> None:
    """Attack each platform for so long; ``make fuzz-sentry ARGS="--calls 3600"``."""
    seed = seed or new_seed()
    with tempfile.TemporaryDirectory() as folder:
        attacker = Path(folder) / "attacker"
        subprocess.run(["gcc", "-std=gnu11", "-O1", "-static", "-o", attacker, SRC / "every_call.c"], check=True)
        for name, build in (("trap", program.trap), ("ptrace", program.ptrace)):
            place = Path(folder) / name
            place.mkdir()
            print(f"{name}, seed {seed}: {attack(attacker, build(), place, seconds, seed)}", end="", flush=True)
