"""Which entries of the lists of system calls are used: a plugin for pytest, `-p tests.record_calls`.

The kernel tells a process of its own of every system call of the tests and of what they start, before it is made
(SECCOMP_RET_USER_NOTIF), and that process says: go on.  So the product has nothing in it for this.  At the end it
writes what each kind of thread (vmm/native/calls/table.h) has done into a file, $PYVMM_RECORD_CALLS, which is added to;
`python -m tests.record_calls FILE...` prints what nobody has used.

Machines of the tests are confined meanwhile.  With `-s` the message of who makes another call is seen.  Not for tests
of shares that threads serve, nor for those in which the process becomes another user.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import struct
import sys
import time
from collections import defaultdict
from pathlib import Path

NR_SECCOMP, NR_PIDFD_GETFD, NR_PRCTL, NR_EXIT = 317, 438, 157, 60
SET_MODE_FILTER, NEW_LISTENER, WAIT_KILLABLE_RECV = 1, 8, 32
USER_NOTIF, CONTINUE, PR_SET_NAME = 0x7FC00000, 1, 15
RECV, SEND = 0xC0502100, 0xC0182101
NOTIFICATION = struct.Struct("<QIIiIQ6Q")
"""struct seccomp_notif: id, pid, flags; struct seccomp_data: nr, arch, instruction_pointer, args."""
KINDS = {
    "vcpu": "VCPU", "loop": "LOOP", "starter": "START", "blk-": "BLK", "net-": "NET", "vsock": "VSOCK",
    "console": "CONSOLE", "pmem": "PMEM", "rng": "RNG", "pyvmm-dax": "DAX",
}  # fmt: skip
"""By how a thread's name begins."""
FILE = "PYVMM_RECORD_CALLS"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

Used = dict[str, dict[int, set[tuple[int, ...]]]]


class Recorder:
    """The process that is asked."""

    def __init__(self, listener: int, base: int) -> None:
        self._listener = listener
        self._base = base
        self._names: dict[int, str] = {}
        self._own: dict[int, int] = {}
        self._filters: dict[int, int] = {}
        self.used: Used = defaultdict(lambda: defaultdict(set))

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
        if tid not in self._names:
            self._look(tid)
        name = self._names[tid]
        kind = next((kind for start, kind in KINDS.items() if name.startswith(start)), "VMM")
        own = self._own.get(tid, 0)
        listed = self._filters[tid] > self._base
        if own or listed:
            if kind != "VMM" and not own:
                kind = "START"
            values = tuple(value & 0xFFFFFFFF for value in arguments[:4])
            known = self.used[kind][nr]
            if len(known) < 400:
                known.add(values)
        if nr == NR_SECCOMP and arguments[0] == SET_MODE_FILTER:
            self._own[tid] = own + 1
            self._filters[tid] += 1
        elif (nr == NR_PRCTL and arguments[0] == PR_SET_NAME) or nr == NR_EXIT:
            del self._names[tid]  # to be looked up again
            if nr == NR_EXIT:
                self._own.pop(tid, None)

    def _look(self, tid: int) -> None:
        status = Path(f"/proc/{tid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        self._names[tid] = fields["Name"]
        self._filters[tid] = int(fields["Seccomp_filters"])
        if tid not in self._own:
            self._own[tid] = 0


def _listening(listener: int) -> bool:
    import select

    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return not any(events & select.POLLHUP for _, events in poll.poll(0))


def _write(used: Used, path: Path) -> None:
    with path.open("a") as file:
        for kind, calls in used.items():
            for nr, values in calls.items():
                file.write(json.dumps([kind, nr, sorted(values)]) + "\n")


def _be_recorder(parent: int, number: int, path: Path) -> None:
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
    recorder = Recorder(listener, base)
    recorder.run()
    _write(recorder.used, path)


def begin(path: Path) -> None:
    """From now on what this process does, and what it starts, is recorded; it is written when all of them are gone."""
    number = os.open("/dev/null", os.O_RDONLY)
    parent = os.getpid()
    if os.fork() == 0:
        try:
            os.setsid()
            if os.fork():
                os._exit(0)
            _be_recorder(parent, number, path)
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


def report(paths: list[str]) -> None:
    """Print for each kind which of its lines nobody has used."""
    from tools.calls import rows
    from vmm.native import ffi, lib

    used: Used = defaultdict(lambda: defaultdict(set))
    for path in paths:
        for line in Path(path).read_text().splitlines():
            kind, nr, values = json.loads(line)
            used[kind][nr] |= {tuple(value) for value in values}
    for part in ("VCPU", "LOOP", "START"):  # which in a jail have its process's list above their own
        for nr, values in used[part].items():
            used["VMM"][nr] |= values
    row = ffi.new("struct seccomp_row *")
    numbers, index = {}, 0
    while lib.seccomp_row(index, row) == 0:
        numbers[ffi.string(row.name).decode()] = row.nr
        index += 1
    for kind in (*dict.fromkeys(KINDS.values()), "VMM"):
        listed = {each.name for each in rows() if kind in each.whose}
        idle = sorted(name for name in listed if numbers[name] not in used[kind])
        names = {number: name for name, number in numbers.items()}
        strange = sorted(names.get(nr, str(nr)) for nr in used[kind] if names.get(nr) not in listed)
        print(f"{kind}: {len(listed)} listed; not used: {' '.join(idle) or 'none'}; of others' lists: {strange}")
        for name in ("ioctl", "futex", "fcntl"):
            if values := used[kind].get(numbers[name]):
                print(f"    {name}: {' '.join(sorted({hex(value[1]) for value in values}))}")


def _confine_all() -> None:
    """Have the tests' machines, which are in their own process, confined: what is not listed ends the tests."""
    from vmm.machine.machine import Machine

    start = Machine.start

    def confined(machine: Machine, ready: Callable[[], None] | None = None, **options: bool) -> None:
        start(machine, ready, **{"confined": not machine.config.opens_files(), **options})

    Machine.start = confined  # type: ignore[method-assign, assignment]
    _confine_drivers()


def _confine_drivers() -> None:
    """The same for the machines without CPUs of the unit tests: their loop, and a driver's start as on a vCPU."""
    from threading import Thread

    from tests.driver import Guest
    from vmm.native import lib

    more = lib.SECCOMP_CHILD | lib.SECCOMP_VHOST
    run, start = Guest._run, Guest.start

    def loop(guest: Guest) -> None:
        lib.thread_set_name(b"loop")
        lib.seccomp_enter_thread(lib.SECCOMP_LOOP | more)
        run(guest)

    def ready(guest: Guest, *arguments: Any, **options: Any) -> Any:
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


def pytest_configure() -> None:
    """Of pytest's."""
    begin(Path(os.environ[FILE]))
    _confine_all()


if __name__ == "__main__":
    report(sys.argv[1:])
