"""Which entries of the lists of system calls are used: a plugin for pytest, `-p tests.record_calls`.

The kernel tells a process of its own of every system call of the tests and of what they start, before it is made
(SECCOMP_RET_USER_NOTIF), and that process says: go on.  So the product has nothing in it for this.  It reads each
filter that is installed, finds out whose list it is, and appends to a file, $PYVMM_RECORD_CALLS, which entry of which
list was used in which test.  `python -m tests.record_calls FILE...` folds such files into
docs/reference/system-calls.md: there each entry has a test that uses it, or a reason, written by hand, why it is
listed although no test does.  A
test holds that for all entries (tests/hostile/test_jail_calls.py).

Machines of the tests are confined meanwhile.  With `-s` the message of who makes another call is seen.  What a filter
answers itself (FAIL, REFUSED) is not told.  Not for tests in which the process becomes another user.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import re
import stat
import struct
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from tools import calls
from tools.where import ROOT

NR_SECCOMP, NR_PIDFD_GETFD, NR_PRCTL, NR_EXIT, NR_EXIT_GROUP = 317, 438, 157, 60, 231
MAKES = {56, 57, 58, 435}
"""clone, fork, vfork, clone3."""
BEGINS = {334, 273, 59, 218}
"""rseq, set_robust_list, execve, set_tid_address: what a thread does first, whose number may have been another's."""
SET_MODE_FILTER, TSYNC, NEW_LISTENER, WAIT_KILLABLE_RECV = 1, 1, 8, 32
PR_SET_SECCOMP = 22
USER_NOTIF, CONTINUE, ERRNO, ALLOW, KILL_PROCESS = 0x7FC00000, 1, 0x50000, 0x7FFF0000, 0x80000000
RECV, SEND = 0xC0502100, 0xC0182101
NOTIFICATION = struct.Struct("<QIIiIQ6Q")
"""struct seccomp_notif: id, pid, flags; struct seccomp_data: nr, arch, instruction_pointer, args."""
INSTRUCTION = struct.Struct("<HBBI")
FILE = "PYVMM_RECORD_CALLS"
MOST_TEST = 400
ALL = 0xFFFFFFFF

SERVER = "FSD"
"""The kind of pyvmm-fsd, whose list is a file of its own."""
MAIN = ("HOST", "SHARES", "FORKS", "SERVER", "GATEWAY", "RESOLVER", "BROKER", "VMM", "START", "LOOP", "VCPU")
"""Kinds whose lists hold those of others, too, in the order in which one is told from the next."""
MORE = {
    "HOST": ("SPAWN",),
    "VMM": ("DISK", "CHILD", "TTY", "PREFETCH", "CONTROL", "GDB", "OUTSIDE", "VHOST"),
    "VCPU": ("CHILD", "VHOST"),
    "LOOP": ("CHILD", "VHOST", "TTY"),
    "VSOCK": ("REACH",),
}
"""What may be added to a list."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


# -- the lists ---------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """One line of a list, or one value of a line that allows several.

    :ivar tests: argument, mask, value
    :ivar err: what the filter answers by itself; 0: the call is made
    :ivar is_own: an argument has to be the process that has the filter, which is another in each
    """

    name: str
    nr: int
    tests: tuple[tuple[int, int, int], ...]
    err: int = 0
    is_own: bool = False

    def matches(self, arguments: list[int]) -> bool:
        """Whether a call with these arguments is meant; the number has been compared."""
        return all(arguments[at] & mask == value for at, mask, value in self.tests)

    def example(self) -> list[int]:
        """Arguments that it allows, and that no other line of the same call does."""
        arguments = [ALL - 1] * 6
        for at, mask, value in self.tests:
            arguments[at] = arguments[at] & ~mask | value
        return arguments


def entries() -> dict[str, list[Entry]]:
    """The entries of each kind of thread."""
    from vmm.native import ffi, lib

    found: dict[str, list[Entry]] = {kind: [] for kind in calls.THREADS}
    native = ffi.new("struct seccomp_row *")
    for index, row in enumerate(calls.rows()):
        assert lib.seccomp_row(index, native) == 0
        values = [int(native.value[at]) for at in range(native.n)]
        how, at = ffi.string(native.test).decode().partition("(")[0], int(native.argument)
        if how == "IN":
            each = [
                Entry(name, native.nr, ((at, ALL, value),)) for name, value in zip(row.entries, values, strict=True)
            ]
        elif how in ("ANY", "OWN"):
            each = [Entry(row.name, native.nr, (), is_own=how == "OWN")]
        elif how == "FAIL":
            each = [Entry(row.name, native.nr, (), values[0])]
        elif how == "REFUSED":
            each = [Entry(row.name, native.nr, ((at, ALL, values[0]),), values[1])]
        else:
            each = [Entry(row.name, native.nr, ((at, values[0], values[0] if how == "WITH" else 0),))]
        for kind in row.whose:
            found[kind] += each
    found[SERVER] = list(_server())
    return found


def _server() -> list[Entry]:
    text = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text()
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}
    words = {**vars(fcntl), **vars(stat), **vars(mmap), "SECCOMP_ALL": ALL}
    words |= {
        "S_IFMT": 0o170000,
        "CLONE_THREAD": 0x10000,
        "CLONE_FS": 0x200,
        "PR_SET_NAME": 15,
        "F_OFD_GETLK": 36,
        "F_OFD_SETLK": 37,
    }
    found = []
    for line in calls.lines_of(calls.text_of(calls.SERVER)):
        if isinstance(line, calls.Line):
            values = [int(eval(word, words)) for word in line.tests]
            tests = [(values[at], values[at + 1], values[at + 2]) for at in range(0, len(values), 3)]
            err = line.when.startswith("answered with")
            found.append(Entry(line.entry, numbers[line.name], tuple(tests), int(err)))
    return found


# -- a filter, and whose it is -----------------------------------------------------------------------------------------


def verdict(program: list[tuple[int, int, int, int]], nr: int, arguments: list[int]) -> int:
    """What a filter (linux/filter.h) answers; -1: it has other instructions than ours have."""
    data = struct.pack("<iIQ6Q", nr, 0xC000003E, 0, *arguments)
    at, value = 0, 0
    while at < len(program):
        code, yes, no, k = program[at]
        at += 1
        if code == 0x20:
            value = int.from_bytes(data[k : k + 4], "little")
        elif code == 0x54:
            value &= k
        elif code == 0x05:
            at += k
        elif code == 0x06:
            return k
        elif code in (0x15, 0x25, 0x35, 0x45):
            holds = {0x15: value == k, 0x25: value > k, 0x35: value >= k, 0x45: bool(value & k)}[code]
            at += yes if holds else no
        else:
            break
    return -1


class Lists:
    """Whose list a filter is."""

    def __init__(self) -> None:
        self.entries = entries()
        self._known: dict[bytes, tuple[str, ...]] = {}

    def of(self, code: bytes) -> tuple[str, ...]:
        """The kinds of threads that a filter is made of: first what the thread is, then what is added to it.  Empty: it
        is another program's.
        """
        if code not in self._known:
            self._known[code] = self._find([*INSTRUCTION.iter_unpack(code)])
        return self._known[code]

    def _find(self, program: list[tuple[int, int, int, int]]) -> tuple[str, ...]:
        def holds(kind: str) -> bool:
            made = [entry for entry in self.entries[kind] if not entry.err and not entry.is_own]
            return all(verdict(program, entry.nr, entry.example()) == ALLOW for entry in made)

        other = verdict(program, 0x3FFFFFFF, [0] * 6)
        if other in (ALLOW, -1):
            return ()
        if other == KILL_PROCESS:
            return (SERVER,) if holds(SERVER) else ()
        main = next((kind for kind in MAIN if holds(kind)), "")
        if not main:
            workers = [kind for kind in calls.THREADS if kind not in MAIN and holds(kind)]
            workers = [kind for kind in workers if not any(kind in more for more in MORE.values())]
            main = max(workers, key=lambda kind: len(self.entries[kind]), default="")
        more = [kind for kind in MORE.get(main, ()) if holds(kind)]
        names = {kind: {(entry.nr, entry.tests) for entry in self.entries[kind]} for kind in more}
        return (main, *(kind for kind in more if not any(names[kind] < names[each] for each in more))) if main else ()

    def used(self, kinds: tuple[str, ...], nr: int, arguments: list[int]) -> tuple[str, Entry] | None:
        """The entry that allows a call; None where it cannot be told which."""
        found = []
        for kind in kinds:
            for entry in self.entries[kind]:
                if entry.nr == nr and not entry.err and entry.matches(arguments):
                    if kind == kinds[0]:
                        return kind, entry
                    found.append((kind, entry))
                    break
        return found[0] if len(found) == 1 else None


# -- recording ---------------------------------------------------------------------------------------------------------

Stack = tuple[tuple[str, ...], ...]
"""The filters of a thread, each as :meth:`Lists.of` has it."""


class Recorder:
    """The process that is asked."""

    def __init__(self, listener: int, base: int, test: mmap.mmap, path: Path) -> None:
        self._listener = listener
        self._base = base
        self._test = test
        self._file = path.open("a", buffering=1)
        self._lists = Lists()
        self._stacks: dict[int, Stack] = {}
        self._groups: dict[int, int] = {}
        self._makers: dict[int, dict[int, Stack]] = defaultdict(dict)
        self._written: set[tuple[str, str]] = set()
        self._plain: set[tuple[Stack, int]] = set()
        self._now = b""

    def run(self) -> None:
        """Until nobody is left who could ask."""
        data = bytearray(NOTIFICATION.size)
        while True:
            data[:] = bytes(NOTIFICATION.size)
            try:
                fcntl.ioctl(self._listener, RECV, data)
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno == 2:  # it was killed meanwhile
                    if not _listening(self._listener):
                        return
                    continue
                return
            ident, tid, _, nr, _, _, *arguments = NOTIFICATION.unpack(data)
            try:
                self._note(tid, nr, arguments)
            except OSError:
                pass
            try:
                fcntl.ioctl(self._listener, SEND, struct.pack("<QqiI", ident, 0, 0, CONTINUE))
            except OSError:
                pass

    def _note(self, tid: int, nr: int, arguments: list[int]) -> None:
        stack = self._stacks.get(tid)
        if stack is None or nr in BEGINS:
            stack = self._look(tid)
        if (stack and (stack, nr) not in self._plain) or self._now != self._test[:MOST_TEST]:
            self._use(stack, nr, [value & ALL for value in arguments])
        if nr == NR_SECCOMP and arguments[0] == SET_MODE_FILTER:
            self._install(tid, self._program(tid, arguments[2]), everybody=bool(arguments[1] & TSYNC))
        elif nr == NR_PRCTL and arguments[:2] == [PR_SET_SECCOMP, 2]:
            self._install(tid, self._program(tid, arguments[2]), everybody=False)
        elif nr in MAKES:
            self._makers[self._groups[tid]][len(stack)] = stack
        elif nr == NR_EXIT:
            self._stacks.pop(tid, None)
        elif nr == NR_EXIT_GROUP:
            group = self._groups.get(tid)
            for each in [each for each, whose in self._groups.items() if whose == group]:
                self._stacks.pop(each, None)
                del self._groups[each]

    def _use(self, stack: Stack, nr: int, arguments: list[int]) -> None:
        if self._now != self._test[:MOST_TEST]:
            self._now = self._test[:MOST_TEST]
            self._written.clear()
            self._plain.clear()
        if not stack:
            return
        parts = [stack[-1]]
        if parts[0][:1] in (("VCPU",), ("LOOP",), ("START",)):  # in a jail the list of its process allows it as well
            parts += [kinds for kinds in stack[:-1] if kinds[:1] == ("VMM",)]
        plain = True
        for kinds in parts:
            used = self._lists.used(kinds, nr, arguments)
            if used is None:
                plain = False
                continue
            plain = plain and not used[1].tests
            line = used[0], used[1].name
            if line not in self._written:
                self._written.add(line)
                self._file.write(json.dumps([*line, self._now.rstrip(b"\0").decode()]) + "\n")
        if plain:
            self._plain.add((stack, nr))

    def _program(self, tid: int, address: int) -> bytes:
        with open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            head = memory.read(16)
            if len(head) < 16:
                return b""  # a wrong address: no filter
            n, place = struct.unpack("<HxxxxxxQ", head)
            memory.seek(place)
            return memory.read(n * INSTRUCTION.size)

    def _install(self, tid: int, program: bytes, *, everybody: bool) -> None:
        kinds = self._lists.of(program)
        group = self._groups[tid]
        for each in [
            tid,
            *(each for each, whose in self._groups.items() if everybody and whose == group and each != tid),
        ]:
            if each in self._stacks:
                self._stacks[each] += (kinds,)

    def _look(self, tid: int) -> Stack:
        """A thread or process that is new has the filters of who made it."""
        status = Path(f"/proc/{tid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        filters, group = int(fields["Seccomp_filters"]) - self._base, int(fields["Tgid"])
        stack = self._stacks.get(tid, ())
        if len(stack) != filters:
            stack = ()
            for maker in (group, int(fields["PPid"])):
                if filters in self._makers[maker]:
                    stack = self._makers[maker][filters]
                    break
        self._groups[tid] = group
        self._stacks[tid] = stack if len(stack) == filters else ((),) * filters
        return self._stacks[tid]


def _listening(listener: int) -> bool:
    import select

    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return not any(events & select.POLLHUP for _, events in poll.poll(0))


def _be_recorder(parent: int, number: int, test: mmap.mmap, path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(parent)
    while True:
        try:
            link = os.readlink(f"/proc/{parent}/fd/{number}")
        except OSError:
            link = ""
        if "seccomp notify" in link:
            break
        time.sleep(0.001)
    listener = libc.syscall(NR_PIDFD_GETFD, pidfd, number, 0)
    status = Path(f"/proc/{parent}/status").read_text()
    base = int(status.partition("Seccomp_filters:")[2].split()[0])
    Recorder(listener, base, test, path).run()


def begin(path: Path) -> mmap.mmap:
    """From now on what this process does, and what it starts, is recorded.

    :returns: where the name of the test is written that runs
    """
    number = os.open("/dev/null", os.O_RDONLY)
    parent = os.getpid()
    test = mmap.mmap(-1, mmap.PAGESIZE)
    if os.fork() == 0:
        try:
            os.setsid()
            if os.fork():
                os._exit(0)
            _be_recorder(parent, number, test, path)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(0)
    os.wait()
    libc = ctypes.CDLL(None, use_errno=True)
    instruction = struct.pack("<HBBI", 0x06, 0, 0, USER_NOTIF)  # BPF_RET | BPF_K
    program = ctypes.create_string_buffer(instruction)
    head = struct.pack("<HxxxxxxQ", 1, ctypes.addressof(program))
    flags = NEW_LISTENER | WAIT_KILLABLE_RECV
    os.close(number)  # what comes next has this number: whoever waits for it is told by nothing else
    made = libc.syscall(NR_SECCOMP, SET_MODE_FILTER, flags, head)
    if made != number:
        raise SystemExit(f"system calls cannot be recorded: {os.strerror(ctypes.get_errno())}")
    return test


# -- the page ----------------------------------------------------------------------------------------------------------

USED = re.compile(r"^- `(.*)`: (.*)$")
REASON = re.compile(r"^- no test; (.*): ([^:]*)$")


class Evidence(NamedTuple):
    """What docs/reference/system-calls.md says of one kind of thread.

    :ivar tests: of each entry that was used: in which test
    :ivar reasons: of each other one: why it is there
    """

    tests: dict[str, str]
    reasons: dict[str, str]


def shown() -> dict[str, Evidence]:
    """What the page has."""
    found: dict[str, Evidence] = {}
    now = Evidence({}, {})
    for line in calls.evidence().splitlines():
        if line.startswith("### "):
            now = found.setdefault(line[4:], Evidence({}, {}))
        elif match := USED.match(line):
            now.tests.update(dict.fromkeys(match[2].split(", "), match[1]))
        elif match := REASON.match(line):
            now.reasons.update(dict.fromkeys(match[2].split(", "), match[1]))
    return found


def there_is(test: str) -> bool:
    """Whether there is a test of this name."""
    path, _, name = test.partition("::")
    file = ROOT / "tests" / path
    return file.exists() and f"def {name}(" in file.read_text()


def fold(paths: list[str]) -> None:
    """Add records to the page, and print of which entries it says nothing."""
    used: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in paths:
        for line in Path(path).read_text().splitlines():
            kind, entry, test = json.loads(line)
            if there_is(test):
                used[kind][entry].add(test)
    before = shown()
    lines = []
    for kind, listed in entries().items():
        old = before.get(kind, Evidence({}, {}))
        order = list(dict.fromkeys(entry.name for entry in listed))
        tests = {entry: test for entry, test in old.tests.items() if entry in order and there_is(test)}
        lacking = {entry for entry in order if entry not in tests and used[kind][entry]}
        while lacking:  # the fewest tests, about
            every = sorted({test for entry in lacking for test in used[kind][entry]})
            best = max(every, key=lambda test: (sum(test in used[kind][entry] for entry in lacking), test))
            for entry in [entry for entry in lacking if best in used[kind][entry]]:
                tests[entry] = best
                lacking.discard(entry)
        lines += ["", f"### {kind}", ""]
        for test in sorted(set(tests.values())):
            lines.append(f"- `{test}`: {', '.join(entry for entry in order if tests.get(entry) == test)}")
        reasons = {entry: why for entry, why in old.reasons.items() if entry in order and entry not in tests}
        for why in sorted(set(reasons.values())):
            lines.append(f"- no test; {why}: {', '.join(entry for entry in order if reasons.get(entry) == why)}")
        nothing = [entry for entry in order if entry not in tests and entry not in reasons]
        if nothing:
            print(f"{kind}: neither used nor with a reason: {', '.join(nothing)}")
    calls.write_evidence("\n".join(lines))


# -- the tests' machines -----------------------------------------------------------------------------------------------


def _confine_all() -> None:
    """Have the tests' machines, which are in their own process, confined: what is not listed ends the tests."""
    from vmm.machine.machine import Machine

    start = Machine.start

    def confined(machine: Machine, ready: Callable[[], None] | None = None, **options: bool) -> None:
        start(machine, ready, **{"confined": not machine.config.opens_files(), **options})

    Machine.start = confined  # type: ignore[method-assign, assignment]
    _confine_drivers()
    _serve_apart()


def _confine_drivers() -> None:
    """The same for the machines without CPUs of the unit tests: their loop, and a driver's start as on a vCPU."""
    from threading import Thread

    from tests.driver import Guest
    from vmm.native import lib
    from vmm.virtio.fs.device import Fs

    more = lib.SECCOMP_CHILD | lib.SECCOMP_VHOST
    run, start = Guest._run, Guest.start

    def is_ours(guest: Guest) -> bool:
        return type(guest.device).__module__.startswith("vmm.") and type(guest.device) is not Fs

    def loop(guest: Guest) -> None:
        lib.thread_set_name(b"loop")
        if is_ours(guest):
            lib.seccomp_enter_thread(lib.SECCOMP_LOOP | more)
        run(guest)

    def ready(guest: Guest, *arguments: Any, **options: Any) -> Any:
        if not is_ours(guest):
            return start(guest, *arguments, **options)
        lib.seccomp_starter_begin()
        failed: list[BaseException] = []
        answer: list[Any] = []

        def vcpu() -> None:
            lib.thread_set_name(b"vcpu0")
            lib.seccomp_enter_thread(lib.SECCOMP_VCPU | more)
            try:
                answer.append(start(guest, *arguments, **options))
            except BaseException as error:
                failed.append(error)

        thread = Thread(target=vcpu)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return answer[0]

    Guest._run = loop  # type: ignore[method-assign, assignment]
    Guest.start = ready  # type: ignore[method-assign, assignment]


def _serve_apart() -> None:
    """Have shares of the unit tests served by pyvmm-fsd; those fail that look into a server of their own process."""
    from tests.fs_driver import FsGuest
    from vmm.memory import GuestMemory

    make = FsGuest.__init__

    def apart(guest: FsGuest, path: Path | str, *, memory: GuestMemory | None = None, **options: Any) -> None:
        options.setdefault("isolation", "process")
        if options["isolation"] == "process" and memory is not None and memory.fd < 0:
            size = memory.size
            memory.close()
            memory = GuestMemory(size, shared=True)
        make(guest, path, memory=memory, **options)

    FsGuest.__init__ = apart  # type: ignore[method-assign, assignment]


class _Names:
    """Tells who records which test runs."""

    def __init__(self, test: mmap.mmap) -> None:
        self._test = test

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        name = nodeid.partition("[")[0].removeprefix("tests/").encode()[:MOST_TEST]
        self._test[:MOST_TEST] = name.ljust(MOST_TEST, b"\0")


def pytest_configure(config: Any) -> None:
    """Of pytest's."""
    config.pluginmanager.register(_Names(begin(Path(os.environ[FILE]))))
    _confine_all()


if __name__ == "__main__":
    fold(sys.argv[1:])
