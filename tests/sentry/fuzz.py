"""Random programs of system calls, made natively and on the Sentry: their results and what they write must agree.

``python -m tests.sentry.fuzz [--seconds N] [--seed N]`` prints the differences that it finds, each as a short program;
``--show FILE`` runs one of these again; ``--layers`` first puts files into the lower layer of an overlay; ``--platform
kvm`` needs /dev/kvm; ``--peer ptrace`` compares two platforms, for a host whose Linux is of another version than the
Sentry follows.

Programs are made from the descriptions of system calls. Natively they run as root in an empty folder of their own; only
calls of :data:`CALLS` are made, with arguments that do no harm there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyvmm_sentry import archive
from pyvmm_sentry import program as build
from pyvmm_sentry.abi import PAIRS, SETS, STRUCTS, WORDS
from pyvmm_sentry.generate import answered
from pyvmm_sentry.syscalls import Argument, Syscall
from tests.sentry.fuzz_known import is_known

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
DATA, PAGE, DATA_PAGES = 0x2000_0000, 4096, 4
TEXTS = DATA + DATA_PAGES * PAGE
NO_ACCESS, HOLE = TEXTS + PAGE, TEXTS + 2 * PAGE
PLAY = 0x3000_0000
"""Where programs may change mappings."""
AT_FDCWD = -100
FOLDER = 0xFFFF
MASK = (1 << 64) - 1
BATCH = 32
"""So many programs run one after the other in a sandbox."""
BAD = (0, NO_ACCESS, HOLE, NO_ACCESS - 4, 0xFFFF_8880_0000_0000, 0x8000_0000_0000_0000)
NAMES = (
    *(
        "a",
        "b",
        "d",
        "d/x",
        "d/e",
        "d/../a",
        ".",
        "./a",
        "d/.",
        "a/",
        "a/x",
        "l",
        "l/x",
        "loop",
        "",
        "/",
        "/w/a",
        "/w/d",
    ),
    *("/dev/null", "/dev/zero", "nope/x", "//w//a", "n" * 255, "n" * 256, "x/" * 2047 + "x", "x/" * 2048, "user.x"),
    *("user.y", "trusted.z", "what.q"),
)
_CALLS = """
    read write open close stat fstat lstat lseek mmap mprotect munmap pread64 pwrite64 readv writev access pipe2 madvise
    dup dup2 dup3 sendfile fcntl flock fsync fdatasync truncate ftruncate getcwd chdir fchdir rename mkdir rmdir creat
    link unlink symlink readlink chmod fchmod chown fchown lchown umask getrlimit setxattr lsetxattr fsetxattr getxattr
    lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr epoll_create fadvise64
    clock_gettime clock_getres epoll_wait epoll_ctl utimes openat mkdirat fchownat newfstatat unlinkat renameat linkat
    symlinkat readlinkat fchmodat faccessat pselect6 ppoll poll select splice tee sync_file_range utimensat fallocate
    eventfd2 epoll_create1 preadv pwritev prlimit64 renameat2 getrandom memfd_create copy_file_range preadv2 pwritev2
    close_range openat2 faccessat2 fchmodat2 rt_sigprocmask rt_sigaction sigaltstack getgroups prctl
    statfs fstatfs getdents64 socketpair shutdown sched_yield msync mincore mremap setrlimit nanosleep
    rt_sigpending signalfd4 readahead mlock munlock capget sched_getscheduler sched_getparam sched_getattr ioprio_get
    timerfd_create timerfd_gettime inotify_init1 getdents mq_unlink shmdt pkey_mprotect
    """
CALLS = frozenset(_CALLS.split())
"""Those that are made."""
SIZES = (0, 1, 2, 7, 8, 16, 100, 4095, 4096, 5000, 1 << 20, 1 << 31, 1 << 45, 1 << 63, MASK)
OFFSETS = (0, 1, 5, 100, 4095, 4096, 8191, 1 << 20, 1 << 31, 1 << 45, (1 << 63) - 1, 1 << 63, MASK, MASK - 4)
MODES = (0, 0o644, 0o755, 0o777, 0o400, 0o1777, 0o7777, 0o10644, 0xFFFFFFFF)


@dataclass
class Call:
    """A call of a program.

    :ivar arguments: numbers; a text ``rN`` is the result of call N
    :ivar pokes: what is written to memory before it: offset and value of 8 bytes
    :ivar masks: what is overwritten after it, since it cannot be equal: offset and size
    """

    name: str
    number: int
    arguments: list[int | str] = field(default_factory=list)
    pokes: list[tuple[int, int]] = field(default_factory=list)
    masks: list[tuple[int, int]] = field(default_factory=list)

    def encoded(self, places: dict[int, int]) -> bytes:
        """For the interpreter.

        :param places: where the calls that it refers to are by now
        """
        numbers, references = [], 0
        for i, argument in enumerate(self.arguments):
            if isinstance(argument, str):
                place = places.get(int(argument[1:]))
                references |= (place is not None) << i
                numbers.append(place if place is not None else MASK)
            else:
                numbers.append(argument & MASK)
        numbers += [0] * (6 - len(numbers))
        masks = b"".join(struct.pack("<HH", *mask) for mask in self.masks)
        pokes = b"".join(struct.pack("<QQ", offset, value & MASK) for offset, value in self.pokes)
        head = struct.pack("<HBBB3x6Q", self.number, references, len(self.pokes), len(self.masks), *numbers)
        return head + pokes + masks.ljust(-(-len(masks) // 8) * 8, b"\0")


Program = list[tuple[int, Call]]
"""Calls, each with its number in the program that it comes from."""


def texts() -> tuple[bytes, dict[str, int]]:
    """The page of names, and the address of each that it has room for."""
    content, places = b"", {}
    for name in NAMES:
        if len(content) + len(name) < PAGE:
            places[name] = TEXTS + len(content)
            content += name.encode() + b"\0"
    return content, places


CONTENT, PLACES = texts()


def encode(calls: Program) -> bytes:
    """A file for the interpreter."""
    head = struct.pack("<II", len(CONTENT), 0) + CONTENT.ljust(-(-len(CONTENT) // 8) * 8, b"\0")
    places = {number: place for place, (number, _) in enumerate(calls)}
    return head + b"".join(call.encoded(places) for _, call in calls)


# -- programs --


class Maker:
    """Makes a program, the same one for each seed."""

    def __init__(self, seed: int, length: int) -> None:
        self.random = random.Random(seed)
        self.length = length
        self.descriptors: list[int] = []
        """Numbers of the calls that returned one, probably."""
        self.calls = [call for call in answered() if call.name in CALLS]

    def program(self) -> Program:
        """The calls: first some files, so that there is something to work on."""
        head = [self.named("mkdir", PLACES["d"], 0o755), self.named("symlink", PLACES["a"], PLACES["l"])]
        head += [self.named("symlink", PLACES["loop"], PLACES["loop"])]
        head += [
            self.named("openat", AT_FDCWD, PLACES["a"], 0o102, 0o644),
            self.named("openat", AT_FDCWD, PLACES["d"], 0, 0),
        ]
        self.descriptors = [3, 4]
        found = list(enumerate(head))
        for number in range(len(found), self.length):
            description = self.random.choice(self.calls)
            found.append((number, self.call(description)))
            if description.name in RETURN_DESCRIPTORS:
                self.descriptors.append(number)
        return found

    def named(self, name: str, *arguments: int) -> Call:
        """A call with these arguments."""
        return Call(name, next(call.number for call in self.calls if call.name == name), list(arguments))

    def chance(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def call(self, description: Syscall) -> Call:
        """A call with random arguments."""
        made = Call(description.name, description.number)
        for argument in description.arguments:
            special = SPECIAL.get((description.name, argument.name)) or SPECIAL.get(("", argument.name))
            value = special(self) if special else self.value(argument, made)
            made.arguments.append(value)
        for argument, value in zip(description.arguments, made.arguments, strict=True):
            if argument.kind.startswith(("iovec", "polls")) and isinstance(value, int) and DATA <= value < TEXTS:
                self.fill(argument, value - DATA, made)
        mask = MASKS.get(description.name)
        made.masks += [each for each in mask(made) if each[0] < DATA_PAGES * PAGE] if mask else []
        return made

    def descriptor(self) -> int | str:
        if self.descriptors and not self.chance(5):
            return f"r{self.random.choice(self.descriptors[-12:])}"
        return self.random.choice((-1, 0, 1, 3, 5, 99, 1 << 31))

    def place(self) -> int:
        """An address, mostly in data."""
        if self.chance(12):
            return self.random.choice(BAD)
        if self.chance(8):
            return PLAY + PAGE * self.random.randrange(8)
        return DATA + 8 * self.random.randrange(DATA_PAGES * PAGE // 8 - 64)

    def bits(self, name: str) -> int:
        each = SETS[name]
        fields = [value for _, value in each.values if each.mask and not value & ~each.mask]
        flags = [value for _, value in each.values if not each.mask or value & ~each.mask]
        found = self.random.choice(fields) if fields else 0
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 3))):
            found |= self.random.choice(flags) if flags else 0
        return found | (1 << self.random.randrange(32) if self.chance(25) else 0)

    def value(self, argument: Argument, made: Call) -> int | str:
        """A value of an argument."""
        kind, choose = argument.kind, self.random.choice
        if kind in ("fd", "dirfd"):
            return AT_FDCWD if kind == "dirfd" and not self.chance(4) else self.descriptor()
        if kind == "path":
            return choose(BAD) if self.chance(25) else choose(list(PLACES.values()))
        if kind == "flags":
            return self.bits(argument.detail)
        if kind == "one":
            return choose(SETS[argument.detail].values)[1] if not self.chance(12) else choose((-1, 77, 1 << 20))
        if kind in ("get", "change"):
            return self.pointer(argument.detail, made)
        pools: dict[str, Sequence[int]] = {
            "size": SIZES,
            "long": OFFSETS,
            "ulong": OFFSETS,
            "hex": (0, 0, 1, 2, PAGE, MASK),
            "int": (0, 1, 2, 3, 8, -1, 1024, 1025),
            "uint": (0, 1, 2, 3, 8, 0xFFFFFFFF),
            "id": (0, 1, 1000, -1, 65535),
            "signal": (10, 12, 17, 34, 64, 9, 19, 0, 65, -1),
            **dict.fromkeys(("mode", "create_mode", "file_mode"), MODES),
        }
        if kind in pools:
            return choose(pools[kind])
        return 0 if kind == "fd_set" and self.chance(3) else self.place()

    def pointer(self, name: str, made: Call) -> int:
        """The address of a structure with random fields, or of none."""
        if self.chance(4):
            return 0 if self.chance(2) else self.place()
        size = STRUCTS[name].size if name in STRUCTS else 32 if name in PAIRS else max(WORDS[name], 8)
        at = 8 * self.random.randrange((DATA_PAGES * PAGE - size) // 8)
        fields = FIELDS.get(name)
        words = fields(self) if fields else [self.random.choice(OFFSETS) for _ in range(size // 8)]
        made.pokes += [(at + 8 * i, word & MASK) for i, word in enumerate(words)]
        return DATA + at

    def fill(self, argument: Argument, at: int, made: Call) -> None:
        """Vectors or descriptors to poll."""
        for i in range(3):
            if argument.kind == "polls":
                events = self.bits("poll") & 0xFFFF
                made.pokes.append((at + 8 * i, self.random.choice((0, 3, 4, 5, 99, MASK >> 32)) | events << 32))
            else:
                size = self.random.choice((0, 1, 3, 8, 100, 4096, MASK) if self.chance(9) else (0, 1, 3, 8, 100))
                made.pokes += [(at + 16 * i, self.place()), (at + 16 * i + 8, size)]
        made.pokes = [poke for poke in made.pokes if poke[0] <= DATA_PAGES * PAGE - 8]


_RETURN_DESCRIPTORS = "open openat openat2 creat dup dup2 dup3 fcntl epoll_create epoll_create1 eventfd2 memfd_create"
RETURN_DESCRIPTORS = frozenset(_RETURN_DESCRIPTORS.split())


def _play(maker: Maker) -> int:
    return PLAY + PAGE * maker.random.randrange(10) + (1 if maker.chance(20) else 0)


def _some(*values: int) -> Callable[[Maker], int]:
    return lambda maker: maker.random.choice(values)


def _nonblocking(kind: str, flag: int) -> Callable[[Maker], int]:
    return lambda maker: maker.bits(kind) | flag


def _action(maker: Maker) -> list[int]:
    return [
        maker.random.choice((0, 1)),
        maker.random.choice((0, 0x1000_0000, 0x0400_0000, 4, MASK)),
        0,
        maker.random.choice(OFFSETS),
    ]


FIELDS: dict[str, Callable[[Maker], list[int]]] = {
    "timespec": lambda maker: [maker.random.choice((0, 0, -1)), maker.random.choice((0, 1000, 999_999_999, 10**9, -1))],
    "timeval": lambda maker: [maker.random.choice((0, 0, -1)), maker.random.choice((0, 10, 1_000_000, -1))],
    "timespec_pair": lambda maker: [
        word
        for _ in range(2)
        for word in (maker.random.choice((0, 7, -1)), maker.random.choice((0, 5, 0x3FFFFFFF, 0x3FFFFFFE, 10**9)))
    ],
    "timeval_pair": lambda maker: [word for _ in range(2) for word in (3, maker.random.choice((0, 5, 1_000_000, -1)))],
    "rlimit": lambda maker: [maker.random.choice((64, 128, 300, MASK)), maker.random.choice((256, 250, 64, MASK))],
    "sigaction": _action,
    "stack": lambda maker: [PLAY, maker.random.choice((0, 2, 1, 4)), maker.random.choice((0, 100, 2048, 8192, MASK))],
    "open_how": lambda maker: [
        maker.bits("open"),
        maker.random.choice((0, 0, 0o644, 0o10000)),
        maker.random.choice((0, 0, 1, 2, 4, 8, 16, 64)),
    ],
    "epoll_event": lambda maker: [maker.bits("epoll_events") | 7 << 32, 0],
    "long": lambda maker: [maker.random.choice((0, 1, 100, 4096, MASK))],
}
_MEMORY = ("munmap", "mprotect", "pkey_mprotect", "madvise", "msync", "mincore", "mlock", "munlock")
SPECIAL: dict[tuple[str, str], Callable[[Maker], int | str]] = {
    ("mmap", "address"): lambda maker: _play(maker) if not maker.chance(4) else maker.random.choice((1 << 63, MASK)),
    ("mmap", "size"): _some(0, 1, PAGE, 3 * PAGE, 100, MASK, 1 << 50),
    # A place in the play area alone is the same natively and here.
    ("mmap", "flags"): lambda maker: maker.bits("map") & ~0x40000 | maker.random.choice((0x10, 0x100000)),
    ("mmap", "offset"): _some(0, 0, PAGE, 1, 1 << 40, MASK & -PAGE),
    **{(name, "address"): _play for name in (*_MEMORY, "mremap", "shmdt")},
    # No more: madvise goes on behind a hole, where the interpreter has its own memory.
    **{(name, "size"): _some(0, 1, PAGE, 2 * PAGE, 100, MASK) for name in _MEMORY},
    ("mremap", "old_size"): _some(0, 1, PAGE, 2 * PAGE),
    ("mremap", "size"): _some(0, 1, PAGE, 2 * PAGE),
    ("mremap", "flags"): _some(0, 3, 3, 2, 8),
    ("mremap", "new_address"): _play,
    ("madvise", "advice"): _some(0, 1, 2, 3, 4, 14, 15, 16, 17, 77),
    ("pipe2", "flags"): _nonblocking("descriptor", 0o4000),
    ("eventfd2", "flags"): _nonblocking("eventfd", 0o4000),
    ("socketpair", "type"): _nonblocking("socket", 0o4000),
    ("socketpair", "family"): _some(1, 1, 1, 99),
    ("flock", "operation"): lambda maker: maker.bits("flock") | 4,
    ("fcntl", "command"): _some(0, 1, 2, 3, 4, 1030, 77, 9, 1032, 1033, 1034),
    ("fcntl", "argument"): _some(0o4000, 0o6000, 0o4001, 4, 10, 1, MASK),
    ("", "timeout"): _some(0, 0, 1),
    **{(name, "count"): _some(0, 1, 3, 64, -1) for name in ("select", "pselect6")},
    ("pselect6", "timeout"): lambda maker: DATA + DATA_PAGES * PAGE - 16,
    ("select", "timeout"): lambda maker: DATA + DATA_PAGES * PAGE - 16,
    ("ppoll", "timeout"): lambda maker: DATA + DATA_PAGES * PAGE - 16,
    ("close_range", "last"): _some(0, 5, 20, 100),
    ("close_range", "first"): _some(3, 5, 18, 101),
    ("dup2", "to"): _some(0, 3, 7, 19, -1, 256),
    ("dup3", "to"): _some(0, 3, 7, 19, -1, 256),
    # Behind the last entry of a folder the largest position means what the file system likes.
    ("lseek", "offset"): _some(*(offset for offset in OFFSETS if offset != (1 << 63) - 1)),
    ("umask", "mask"): _some(0o22, 0, 0o77, 0o7777),
    ("prctl", "option"): _some(15, 16, 77777, 38, 39, 3),
    ("prctl", "second"): lambda maker: maker.place() if maker.chance(2) else 1,
    ("prlimit64", "pid"): _some(0, 0, 0, 1 << 30),
    ("prlimit64", "resource"): _some(7, 4, 7, 16, -1),
    ("setrlimit", "resource"): _some(4, 4, 16, -1),
    ("getrlimit", "resource"): _some(7, 4, 16, -1),
    ("rt_sigaction", "signal"): _some(10, 12, 34, 64, 9, 19, 0, 65, -1),
    ("rt_sigaction", "size"): _some(8, 8, 8, 4, 16),
    ("rt_sigprocmask", "size"): _some(8, 8, 8, 4, 16),
    ("rt_sigpending", "size"): _some(8, 8, 4, 16),
    ("ppoll", "size"): _some(8, 8, 4),
    ("openat2", "size"): _some(24, 24, 24, 16, 32, 0),
    ("fallocate", "size"): _some(0, 1, 4096, 10000, MASK),
    ("fallocate", "offset"): _some(0, 1, 4096, 10000, MASK),
    ("truncate", "size"): _some(0, 1, 4096, 10000, MASK, 1 << 40),
    ("ftruncate", "size"): _some(0, 1, 4096, 10000, MASK, 1 << 40),
    ("getdents64", "size"): _some(2048, 0, 10),
    **{(name, "pid"): _some(0, 0, 1 << 30, -1) for name in ("sched_getscheduler", "sched_getparam", "sched_getattr")},
    ("sched_getattr", "flags"): _some(0, 0, 1),
    ("ioprio_get", "which"): _some(1, 1, 0, 4),
    ("ioprio_get", "who"): _some(0, 0, 1 << 30),
    ("signalfd4", "size"): _some(8, 8, 4),
    ("signalfd4", "mask"): lambda maker: maker.place(),
    ("capget", "header"): lambda maker: maker.place(),
    ("pkey_mprotect", "key"): _some(-1, -1, 77),
    ("getdents", "size"): _some(2048, 0, 10),
    ("nanosleep", "time"): lambda maker: DATA + DATA_PAGES * PAGE - 16,
    ("pselect6", "mask"): _some(0, 0, NO_ACCESS),
}
"""Arguments whose random values would wait, harm, or be different natively by their nature."""


def _at(call: Call, index: int) -> int:
    value = call.arguments[index]
    return value - DATA if isinstance(value, int) and DATA <= value < TEXTS else 1 << 20


def _all(index: int, size: int) -> Callable[[Call], list[tuple[int, int]]]:
    return lambda call: [(_at(call, index), size)]


MASKS: dict[str, Callable[[Call], list[tuple[int, int]]]] = {
    **dict.fromkeys(("stat", "lstat", "fstat"), lambda call: [(_at(call, 1), FOLDER)]),
    "newfstatat": lambda call: [(_at(call, 2), FOLDER)],
    **dict.fromkeys(("statfs", "fstatfs"), _all(1, 120)),
    **dict.fromkeys(("getdents64", "getdents"), _all(1, 2048)),
    "sched_getattr": _all(1, 56),
    "capget": _all(1, 24),
    "clock_gettime": _all(1, 16),
    "clock_getres": _all(1, 16),
    "getrandom": lambda call: [(_at(call, 0), 0x4000)],
    "prctl": lambda call: [(_at(call, 1), 16)],
    "mincore": _all(2, 16),
}


# -- runs --


def make_files(folder: Path) -> None:
    """Files that are there already, of some of :data:`NAMES`."""
    (folder / "d").mkdir(parents=True)
    (folder / "a").write_bytes(bytes(range(250)) * 40)
    (folder / "d" / "x").write_text("some text\n")
    for name, target in (("l", "d"), ("loop", "loop")):
        (folder / name).symlink_to(target)


class Runner:
    """Runs programs natively and on the Sentry.

    :param layers: there are files already; on the Sentry they are in a lower layer
    :param platform: kvm, trap, or ptrace
    :param peer: a platform to compare with instead of Linux
    """

    def __init__(self, *, layers: bool = False, platform: str = "ptrace", peer: str | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sentry-fuzz-", dir="/dev/shm"))
        self.interpreter = self.folder / "interpreter"
        source = HERE / "src" / "interpreter.c"
        subprocess.run(["gcc", "-std=gnu11", "-O1", "-static", "-o", self.interpreter, source], check=True)
        self.layers = layers
        self.runs = 0
        self.start = self._start(platform)
        self.peer = self._start(peer) if peer else None

    def _start(self, platform: str) -> list[Any]:
        """The command that starts the interpreter on a platform."""
        if platform == "kvm":
            command = [sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "kvm", "--root", "none"]
            return [*command, self.interpreter]
        core = {"trap": build.trap, "ptrace": build.ptrace}[platform]()
        if not self.layers:
            return [core, "--", self.interpreter]
        packed, lower = self.folder / "archive", self.folder / "lower"
        for number in range(BATCH):
            make_files(lower / str(number) / "w")
        shutil.copy(self.interpreter, lower)
        with open(packed, "wb") as out:
            archive.pack(lower, out)
        return [core, "--scratch", "--archive", packed, "--", "/interpreter"]

    def close(self) -> None:
        shutil.rmtree(self.folder)

    def native(self, programs: Sequence[bytes], *, verbose: bool = False) -> list[list[str]]:
        """The lines of each program on the host's Linux, or on the peer."""
        if self.peer:
            return self._run([*self.peer, ""], programs, verbose)
        root = Path(tempfile.mkdtemp(dir=self.folder))
        if self.layers:
            for number in range(BATCH):
                make_files(root / str(number) / "w")
        try:
            return self._run([self.interpreter, str(root)], programs, verbose)
        finally:
            subprocess.run(["rm", "-rf", "--", root], check=True)

    def ours(self, programs: Sequence[bytes], *, verbose: bool = False) -> list[list[str]]:
        """The same on the Sentry."""
        self.runs += len(programs)
        return self._run([*self.start, ""], programs, verbose)

    def _run(self, command: list[Any], programs: Sequence[bytes], verbose: bool) -> list[list[str]]:
        """At most :data:`BATCH` programs; what kills the sandbox does not hide the others."""
        words = [*command, *(["verbose"] if verbose else [])]
        content = b"".join(struct.pack("<I", len(program)) + program for program in programs)
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={})
        try:
            out, error = process.communicate(content, timeout=60 + 20 * len(programs))
        except subprocess.TimeoutExpired:
            process.kill()
            out, error = process.communicate()
            error += b"it hangs"
        *ended, last = out.decode(errors="replace").split("end\n")
        found = [lines.splitlines() for lines in ended]
        if len(found) < len(programs):
            reason = f"all ends with {process.returncode} {error.decode(errors='replace')}"
            found.append([*last.splitlines(), reason])
            rest = programs[len(found) :]
            found += self._run(command, rest, verbose) if rest else []
        return found


@dataclass
class Difference:
    """The first call whose results differ."""

    program: Program
    index: int
    native: str
    ours: str

    @property
    def call(self) -> Call | None:
        """None: at the end."""
        return self.program[self.index][1] if self.index < len(self.program) else None

    @property
    def kind(self) -> tuple[str, str, str]:
        """The same for the same bug, mostly: name, and both results without memory."""
        name = self.call.name if self.call else ""
        native, ours = (" ".join(line.split()[1:3]) for line in (self.native, self.ours))
        return name, native, ours


def compare(runner: Runner, programs: Sequence[Program]) -> list[Difference | None]:
    """Run them on both; the first difference of each."""
    found = []
    for at in range(0, len(programs), BATCH):
        batch = programs[at : at + BATCH]
        contents = [encode(program) for program in batch]
        results = zip(batch, runner.native(contents), runner.ours(contents), strict=True)
        found += [_first_difference(*each) for each in results]
    return found


def _first_difference(program: Program, native: list[str], ours: list[str]) -> Difference | None:
    for index in range(max(len(native), len(ours))):
        pair = [lines[index] if index < len(lines) else "nothing" for lines in (native, ours)]
        if pair[0] != pair[1]:
            return Difference(program, index, *pair)
    return None


def shrink(runner: Runner, found: Difference) -> Difference:
    """The same difference with as few calls as possible."""
    best = Difference(found.program[: found.index + 1], found.index, found.native, found.ours)
    step = len(best.program) // 2
    while step:
        at = 0
        while at < len(best.program) - 1:
            shorter = best.program[:at] + best.program[min(at + step, len(best.program) - 1) :]
            [again] = compare(runner, [shorter])
            if again and again.kind == best.kind and again.index == len(shorter) - 1:
                best = again
            else:
                at += step
        step //= 2
    return best


def find(runner: Runner, seeds: Iterator[int], length: int, seconds: float) -> Iterator[tuple[int, Difference]]:
    """Differences without a reason, each kind once, until time is over.

    A program goes on without the call that differed.
    """
    end, kinds = time.monotonic() + seconds, set()
    waiting: list[tuple[int, Program]] = []
    while time.monotonic() < end:
        fresh = itertools.islice(seeds, BATCH - len(waiting))
        waiting += [(seed, Maker(seed, length).program()) for seed in fresh]
        if not waiting:
            return
        results = compare(runner, [program for _, program in waiting])
        tried, waiting = waiting, []
        for (seed, program), found in zip(tried, results, strict=True):
            if not found:
                continue
            if not is_known(found) and found.kind not in kinds:
                kinds.add(found.kind)
                yield seed, found
            if found.index < len(program):
                waiting.append((seed, program[: found.index] + program[found.index + 1 :]))


def to_text(program: Program) -> str:
    """A program for the corpus: a line for each call."""
    lines = [
        json.dumps([number, call.name, call.number, call.arguments, call.pokes, call.masks]) for number, call in program
    ]
    return "\n".join(lines) + "\n"


def from_text(text: str) -> Program:
    """The reverse."""
    rows = [json.loads(line) for line in text.splitlines()]
    return [
        (number, Call(name, of, arguments, [(a, b) for a, b in pokes], [(a, b) for a, b in masks]))
        for number, name, of, arguments, pokes, masks in rows
    ]


def main(argv: list[str]) -> int:
    """Run it; returns 1 if there are differences."""
    parser = argparse.ArgumentParser(prog="python -m tests.sentry.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=150)
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--show", type=Path)
    parser.add_argument("--layers", action="store_true", help="with files in a lower layer (not on kvm)")
    parser.add_argument("--platform", choices=("ptrace", "trap", "kvm"), default="ptrace")
    parser.add_argument("--peer", choices=("ptrace", "trap"), help="compare with this platform instead of Linux")
    parser.add_argument("--calls", type=int, metavar="SECONDS", help="attack with calls of every number instead")
    options = parser.parse_args(argv)
    if options.calls:
        from tests.sentry import test_attackers

        test_attackers.main(options.calls, options.seed)
        return 0
    if options.layers and (options.platform == "kvm" or options.peer):
        parser.error("--layers needs trap or ptrace, and Linux as its peer")
    runner = Runner(layers=options.layers, platform=options.platform, peer=options.peer)
    count = 0
    try:
        if options.show:
            content = encode(from_text(options.show.read_text()))
            for name, run in (("native", runner.native), ("sentry", runner.ours)):
                print(name, *run([content], verbose=True)[0], sep="\n")
            return 0
        seeds = iter(range(options.seed, 1 << 62))
        for seed, found in find(runner, seeds, options.length, options.seconds):
            count += 1
            small = found if options.no_shrink else shrink(runner, found)
            text = to_text(small.program) if small is not found else f"{small.call}\n"
            print(f"seed {seed}: {small.kind}\n{text}  native {small.native}\n  sentry {small.ours}", flush=True)
        print(f"{runner.runs} runs of programs, {count} differences")
    finally:
        runner.close()
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
