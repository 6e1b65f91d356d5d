"""A program on the platform trap that is stopped, and children that continue from there, each in its own process."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyvmm_sentry import ProgramError, SentrySandbox, Template, platforms
from pyvmm_sentry.cores import Core
from pyvmm_sentry.forks import CoreTemplate
from pyvmm_sentry.share import RINGS
from pyvmm_sentry.streams import POINTS
from tests.sentry.conftest import Compile
from tests.sentry.conftest import compile_static as compile_static
from tests.sentry.forking import COMMAND, PATIENCE, Make, check_nothing_left, held
from tests.sentry.forking import root as root
from tests.sentry.forking import sandbox as sandbox
from tests.sentry.forking import template as template
from tests.sentry.forking import test_a_child_that_ends_is_an_error as test_a_child_that_ends_is_an_error
from tests.sentry.forking import test_a_child_that_hangs_is_ended as test_a_child_that_hangs_is_ended
from tests.sentry.forking import (
    test_a_child_that_was_stopped_is_a_template as test_a_child_that_was_stopped_is_a_template,
)
from tests.sentry.forking import (
    test_a_program_that_ends_before_the_point_is_an_error as test_a_program_that_ends_before_the_point_is_an_error,
)
from tests.sentry.forking import (
    test_a_server_answers_each_request_in_a_child as test_a_server_answers_each_request_in_a_child,
)
from tests.sentry.forking import (
    test_children_draw_different_random_numbers as test_children_draw_different_random_numbers,
)
from tests.sentry.forking import test_each_child_continues_from_the_point as test_each_child_continues_from_the_point
from tests.sentry.forking import test_points as test_points
from tests.sentry.forking import test_the_calendar_is_the_hosts as test_the_calendar_is_the_hosts
from tools.where import ROOT
from vmm import ConfigError, HostError, VmmError

pytestmark = pytest.mark.skipif(not platforms.trap().present, reason="the platform trap does not work here")


@pytest.fixture(scope="module")
def host() -> str:
    return "trap"


def test_points_of_a_core_that_writes_anything(template: Template) -> None:
    with template.fork() as child:
        child._guest._put(POINTS, b"\1\0\0\0\xff\xff\xff\xff\0\0\0")
        assert child.call(1, PATIENCE) == [1, 1]


@pytest.mark.parametrize("count", [16, pytest.param(10_000, marks=pytest.mark.long)])
def test_children_leave_nothing(template: Template, sandbox: Make, count: int) -> None:
    check_nothing_left(template, sandbox, count)


PYTHON = """
import json, mmap, os, sys, tempfile, threading, time
seen = []
threading.Thread(target=lambda: [seen.append(1) or time.sleep(0.001) for _ in iter(int, 1)], daemon=True).start()
spinning = [0]
def spin():
    while True:
        spinning[0] += 1
threading.Thread(target=spin, daemon=True).start()
shared = mmap.mmap(-1, 1 << 20)
reader, writer = os.pipe()
writer2, reader2 = os.pipe()[::-1]
if os.fork() == 0:
    for line in os.fdopen(reader):
        shared[:8] = (int.from_bytes(shared[:8], "little") + int(line)).to_bytes(8, "little")
        os.write(writer2, b"x")
    os._exit(0)
scratch = tempfile.TemporaryFile(mode="w+")
scratch.write("before ")
module = open(os.__file__)
module.readline()
big = bytearray(b"y" * (4 << 20))
print("ready", flush=True)
for line in sys.stdin:
    before, number = len(seen), json.loads(line)
    big[number] = ord("z")
    scratch.write(str(number))
    scratch.flush()
    os.write(writer, b"%d\\n" % number)
    os.read(reader2, 1)
    while len(seen) < before + 3 or not spinning[0]:
        time.sleep(0.001)
    scratch.seek(0)
    import colorsys  # a file that was not open before
    print(json.dumps([scratch.read(), int.from_bytes(shared[:8], "little"), big.count(b"z"), bool(module.read())]),
          flush=True)
"""


def test_children_have_threads_processes_and_files() -> None:
    """All that runs or waits when the program is stopped goes on in each child, with memory of its own."""
    base = SentrySandbox("/", ["/usr/bin/python3", "-c", PYTHON], platform="trap")
    with base.run(PATIENCE, until="ready").freeze(prepared=0) as template, template.fork() as first:
        assert first.call(5, PATIENCE) == ["before 5", 5, 1, True]
        with template.fork() as second:
            assert second.call(7, PATIENCE) == ["before 7", 7, 1, True]
        assert first.call(6, PATIENCE) == ["before 56", 11, 2, False]


WRITER = """
import hashlib, json, mmap, os, random, sys, tempfile
PAGE, SIZE = 4096, 8 << 20
start = random.Random(1)
big = bytearray(start.randbytes(SIZE))
common = mmap.mmap(-1, SIZE)
common[:] = start.randbytes(SIZE)
file = tempfile.TemporaryFile()
file.write(start.randbytes(SIZE))
file.flush()
ours, private = mmap.mmap(file.fileno(), SIZE), mmap.mmap(file.fileno(), SIZE, mmap.MAP_PRIVATE)
for memory in (ours, private):
    sum(memory[::PAGE])  # it is there before the program stops
print("ready", flush=True)
request = json.loads(sys.stdin.readline())
chance = random.Random(request)

def in_child(work):
    if not (pid := os.fork()):
        work()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

for _ in range(60):
    at, data = chance.randrange(SIZE - PAGE), chance.randbytes(chance.choice([1, 100, PAGE]))
    end = at + len(data)
    def write(memory):
        memory[at:end] = data
    kind = chance.randrange(9)
    if kind < 4:
        write([big, common, ours, private][kind])
    elif kind == 4:
        in_child(lambda: write(common))
    elif kind == 5:
        in_child(lambda: (write(ours), write(private), write(big)))
    elif kind == 6:
        os.pwrite(file.fileno(), data, at)
    elif kind == 7:  # a call writes to memory that nobody has changed
        os.preadv(file.fileno(), [memoryview([big, common][at % 2])[at:end]], chance.randrange(SIZE - PAGE))
    else:
        common.madvise(mmap.MADV_DONTNEED, at // PAGE * PAGE, PAGE)
        common.resize(SIZE)
found = [hashlib.sha256(memory).hexdigest() for memory in (big, common, ours, private)]
print(json.dumps([*found, hashlib.sha256(os.pread(file.fileno(), SIZE, 0)).hexdigest()]), flush=True)
sys.stdin.readline()
"""


def test_children_share_the_memory_that_nobody_changes() -> None:
    """Each sees what it would see with a copy, whoever writes by whatever way, and costs what it changes."""
    command = ["/usr/bin/python3", "-c", WRITER]
    native = [
        subprocess.run(command, input=f"{seed}\n", capture_output=True, text=True, check=True).stdout.splitlines()[1]
        for seed in range(12)
    ]
    assert len(set(native)) == len(native)
    with SentrySandbox("/", command, platform="trap", memory=128).run(PATIENCE, until="ready").freeze() as template:
        with contextlib.ExitStack() as stack:
            children = [stack.enter_context(template.fork()) for _ in native]
            assert [child.call(seed, PATIENCE) for seed, child in enumerate(children)] == [*map(json.loads, native)]
            frozen = stack.enter_context(children[0].freeze(prepared=0))
            assert isinstance(frozen, CoreTemplate)
            cores = [child._guest for child in children[1:] if isinstance(child._guest, Core)]
            sizes = [os.fstat(core._devices.ram).st_blocks * 512 for core in cores if core._devices]
            assert max(sizes) < 12 << 20 < os.fstat(frozen._image.saved.ram).st_blocks * 512
            for pid in [pid for core in cores for pid in program_processes(core._pid)]:
                flags = Path(f"/proc/{pid}/fdinfo/2").read_text().split("flags:")[1].split()[0]
                assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY


@pytest.mark.parametrize(("address", "size"), [(0x100000, 1 << 31), ((1 << 64) - 0x1000, 0x2000), (64 << 20, 1)])
def test_a_queue_that_no_core_has_left_is_refused(sandbox: Make, address: int, size: int) -> None:
    """Its buffers are copied for each child: the largest takes no time."""
    with sandbox().run(PATIENCE, until="ready").freeze(prepared=0) as template:
        assert isinstance(template, CoreTemplate)
        os.pwrite(template._image.saved.ram, struct.pack("<QIHH", address, size, 0, 0), RINGS)
        with pytest.raises(ConfigError, match=f"a queue of the stopped core has a buffer of {size} bytes"):
            template.fork()


def program_processes(core: int) -> list[int]:
    """The processes of a core that run its programs."""
    return [int(pid) for pid in Path(f"/proc/{core}/task/{core}/children").read_text().split()]


LISTER = """
cd /bin; set -- *; echo ready
while read -r name; do set -- *; echo $#; : >new-$#; mkdir deep-$#; done
"""


def test_children_change_directories_that_the_program_has_read(sandbox: Make, root: Path) -> None:
    """Each has the entries that the program has read, and what it has made itself."""
    count = len(os.listdir(root / "bin"))
    with sandbox(["/bin/sh", "-c", LISTER]).run(PATIENCE, until="ready").freeze() as template:
        with template.fork() as first, template.fork() as second:
            assert [first.call(None, PATIENCE) for _ in range(3)] == [count, count + 2, count + 4]
            assert [second.call(None, PATIENCE) for _ in range(2)] == [count, count + 2]


def test_the_monotonic_clock_stands_still_while_the_program_is_stopped(sandbox: Make) -> None:
    script = 'echo ready; read -r line; read -r up idle </proc/uptime; echo "[$line, $up]"'
    with sandbox(["/bin/sh", "-c", script]).run(PATIENCE, until="ready").freeze(prepared=0) as template:
        with template.fork() as child:
            first = child.call(1, PATIENCE)[1]
        subprocess.run(["sleep", "1"], check=True)
        before = time.monotonic()
        with template.fork() as child:
            second = child.call(1, PATIENCE)[1]
        assert second <= first + (time.monotonic() - before) + 0.02  # no more than it has run


def test_what_cannot_be_stopped_is_refused(sandbox: Make) -> None:
    hooked = sandbox()
    hooked.on("open")(lambda event: None)
    with pytest.raises(ConfigError, match="with hooks, events or files of functions"):
        hooked.run(until="ready")
    with sandbox() as base, pytest.raises(ConfigError, match="the program does not run"):
        base.freeze()
    with sandbox() as base:
        base.run(PATIENCE, until="ready")
        with pytest.raises(ConfigError, match="prepared=65: not 0 to 64"):
            base.freeze(prepared=65)


def test_a_program_that_has_ended_cannot_be_stopped(sandbox: Make) -> None:
    with sandbox(["sh", "-c", "echo ready; exit 5"]) as base:
        base.run(PATIENCE, until="ready")
        os.waitid(os.P_PID, base._guest._pid, os.WEXITED | os.WNOWAIT)  # type: ignore[union-attr]
        with pytest.raises(ProgramError, match="exited with 5"):
            base.freeze()


def test_a_host_without_processes_is_an_error(sandbox: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with sandbox().run(PATIENCE, until="ready").freeze(prepared=0) as template:
        nursery = template._nursery  # type: ignore[attr-defined]
        os.kill(nursery._process.pid, signal.SIGKILL)
        nursery._process.wait()
        with pytest.raises(HostError, match="the process that makes others has ended"):
            template.fork()


def test_a_host_without_descriptors_is_an_error(sandbox: Make) -> None:
    """Nothing is left of what failed, and the next child works."""
    with sandbox().run(PATIENCE, until="ready").freeze(prepared=0) as template:
        refused, before, limits = 0, held(), resource.getrlimit(resource.RLIMIT_NOFILE)
        fds = {int(number) for number in os.listdir("/proc/self/fd")}
        first = min(set(range(len(fds) + 1)) - fds)
        for free in range(48):
            resource.setrlimit(resource.RLIMIT_NOFILE, (first + free, limits[1]))
            try:
                template.fork().close()
            except VmmError:
                refused += 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert held() == before and refused
        assert template.map([1], timeout=PATIENCE) == [[1, 1]]


def test_a_fork_that_is_interrupted_does_not_mix_up_later_ones(sandbox: Make) -> None:
    """The answer to its request may still come."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with sandbox().run(PATIENCE, until="ready").freeze(prepared=0) as template:
        assert isinstance(template, CoreTemplate)
        maker = template._nursery._process.pid
        old = signal.signal(signal.SIGALRM, interrupt)
        os.kill(maker, signal.SIGSTOP)
        try:
            signal.setitimer(signal.ITIMER_REAL, 1)
            with pytest.raises(KeyboardInterrupt):
                template.fork()
        finally:
            os.kill(maker, signal.SIGCONT)
            signal.signal(signal.SIGALRM, old)
        with contextlib.suppress(HostError):
            assert template.map([1], timeout=PATIENCE) == [[1, 1]]


KILLED = """
import os, sys
from pyvmm_sentry import SentrySandbox
base = SentrySandbox(sys.argv[1], ["/bin/sh", "-c", sys.argv[2]], platform="trap", env={"PATH": "/bin"}, memory=64)
template = base.run(60, until="ready").freeze(prepared=1)
child = template.fork()
child.call(1)
print(child._guest._pid, template._nursery._process.pid, flush=True)
try:
    child.call("hang", 60)
except Exception as error:
    print(error)
"""


def test_children_end_with_this_process(root: Path) -> None:
    """Even if it is killed while a child computes."""
    words = [sys.executable, "-c", KILLED, f"{root}", COMMAND[2]]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pidfds = [os.pidfd_open(int(pid)) for pid in process.stdout.readline().split()]
        process.kill()
    for pidfd in pidfds:
        assert ended(pidfd)
        os.close(pidfd)


def test_a_child_ends_with_a_host_that_is_killed_when_it_lets_it_run(sandbox: Make) -> None:
    """The child reads that it may run only after the end of the host."""
    with sandbox().run(PATIENCE, until="ready").freeze(prepared=0) as template:
        assert isinstance(template, CoreTemplate)
        core = Core(template._nursery, template._image)
        os.kill(core._pid, signal.SIGSTOP)
        os.waitid(os.P_PID, core._pid, os.WSTOPPED)
        core.go()
        core._fds.remove(core._alive)
        os.close(core._alive)
        os.kill(core._pid, signal.SIGCONT)
        assert ended(core._pidfd)
        core.close()


def ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(PATIENCE * 1000))


OUTSIDE = """
import contextlib, socket, subprocess, sys, threading
from pyvmm_sentry import SentrySandbox
for words in ("link set lo up", "link add d0 type veth peer name d1", "addr add 10.9.0.2/24 dev d0",
              "addr add 10.9.0.3/32 dev lo", "link set d1 up", "link set d0 up", "route add default via 10.9.0.1"):
    subprocess.run(["ip", *words.split()], check=True)
server = socket.create_server(("10.9.0.3", 0))
def answer(connection):
    with contextlib.suppress(ConnectionResetError), connection, connection.makefile("rw") as stream:
        for line in stream:
            print(line.upper(), end="", file=stream, flush=True)
def serve():
    while True:
        threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()
threading.Thread(target=serve, daemon=True).start()
program = '''
import json, socket, sys
stream = socket.create_connection((sys.argv[1], int(sys.argv[2]))).makefile("rw")
print("base", file=stream, flush=True)
print(stream.readline(), "ready", sep="", flush=True)
for line in sys.stdin:
    new = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30).makefile("rw")
    print(line, end="", file=new, flush=True)
    print(new.readline(), end="", flush=True)
'''
words = ["/usr/bin/python3", "-c", program, *map(str, server.getsockname())]
with SentrySandbox("/", words, platform="trap", network=True) as base:
    with base.run(60, until="ready").freeze(prepared=0) as template:
        print(template.map(["a", "b", "c"], workers=2, timeout=60))
"""


def test_children_have_a_network() -> None:
    """With connections of their own: those of the stopped program have ended."""
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-c", OUTSIDE]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/examples/sentry"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert (done.stdout, done.stderr) == ("['A', 'B', 'C']\n", "")


def test_no_write_to_shared_memory_is_lost(compile_static: Compile, root: Path) -> None:
    """Threads, calls and other processes write to the same pages, on several CPUs."""
    shutil.copy(compile_static("shared_below"), root / "bin")
    command = ["/bin/shared_below"]
    assert subprocess.run([root / "bin" / "shared_below"], input="1\n2\n", capture_output=True, text=True).stdout == (
        "ready\n[]\n[]\n"
    )
    with SentrySandbox(root, command, platform="trap", memory=64).run(PATIENCE, until="ready").freeze() as template:
        for _ in range(8):
            with template.fork() as child:
                assert [child.call(number, PATIENCE) for number in range(2)] == [[], []]
