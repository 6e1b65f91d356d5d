"""The lab as its users see it: commands with their streams, status and signals, and nothing left when it ends.

And what the suites of tests/conformance, which run in it, say of themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests import order
from tests.claims import HOSTILE, RACES, Claims
from tests.conformance import journal as conformance_journal
from tests.conformance.differences import DIFFERENCES, Difference
from tests.conformance.suite import Result, case, equal, judge
from tests.conformance.suites import SUITES
from tests.journal import Journal
from tests.lab import Lab, LabError, channel
from tests.lab.host import CHECKOUT, SHARE
from tests.lab.mend import LOOKUP, MendError, Place, mended
from tools import documents

needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None or "PYVMM_LAB" in os.environ,
    reason="the lab needs QEMU, and does not run in itself",
)

TOOL = [sys.executable, "-m", "tests.lab", "run", "--cpus", "1", "--memory", "1G"]
LIMIT = 180.0  # seconds for anything here, on a busy machine


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(cpus=1, memory="1G") as lab:
        yield lab


class Output:
    """What a command printed on one stream."""

    def __init__(self) -> None:
        self.data = b""

    def __call__(self, data: bytes) -> None:
        self.data += data


def run(lab: Lab, script: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    out, err = Output(), Output()
    status = lab.run(["sh", "-c", script], stdin=stdin, stdout=out, stderr=err, timeout=LIMIT)
    return status, out.data, err.data


def test_frames_are_found_however_the_stream_is_cut() -> None:
    frames = [(channel.STDOUT, 1, b"abc"), (channel.EXIT, 7, b"0"), (channel.STDERR, 1 << 31, bytes(70000))]
    stream = b"".join(channel.pack(*frame) for frame in frames)
    for size in (1, 8, 9, 10, 1000, len(stream)):
        parser = channel.Parser()
        found = [f for at in range(0, len(stream), size) for f in parser.feed(stream[at : at + size])]
        assert found == frames


@needs_qemu
def test_output_error_output_and_status_come_back(lab: Lab) -> None:
    assert run(lab, "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")


@needs_qemu
def test_stdin_goes_in_and_more_than_the_pipes_hold(lab: Lab) -> None:
    data = os.urandom(3 << 20)
    assert run(lab, "cat", data) == (0, data, b"")
    assert run(lab, "head -c 3", b"abcdef" * 100000)[:2] == (0, b"abc")


@needs_qemu
def test_a_signal_that_kills_shows_in_the_status(lab: Lab) -> None:
    assert run(lab, "kill -SEGV $$")[0] == 128 + signal.SIGSEGV
    command = lab.popen(["sleep", "1000"])
    command.send_signal(signal.SIGTERM)
    assert command.wait(LIMIT) == 128 + signal.SIGTERM


@needs_qemu
def test_a_program_that_is_not_there_is_127_and_named(lab: Lab) -> None:
    err = Output()
    assert lab.run(["no-such-program"], stderr=err) == 127
    assert b"no-such-program" in err.data
    err = Output()
    assert lab.run(["true"], cwd="/no/such/dir", stderr=err) == 127
    assert b"/no/such/dir" in err.data


@needs_qemu
def test_a_time_limit_kills_the_command_and_leaves_the_lab(lab: Lab) -> None:
    with pytest.raises(TimeoutError):
        lab.run(["sleep", "1000"], timeout=0.5)
    assert run(lab, "echo alive")[1] == b"alive\n"


@needs_qemu
def test_a_process_left_behind_does_not_hold_its_command(lab: Lab) -> None:
    assert run(lab, "sleep 1000 & echo started") == (0, b"started\n", b"")


@needs_qemu
def test_commands_run_beside_each_other(lab: Lab) -> None:
    out = Output()
    first = lab.popen(["cat"], stdout=out)
    assert run(lab, "echo second")[1] == b"second\n"
    first.write(b"first\n")
    first.close_stdin()
    assert (first.wait(LIMIT), out.data) == (0, b"first\n")


@needs_qemu
def test_a_command_can_have_a_terminal_of_a_given_size(lab: Lab) -> None:
    out = Output()
    command = lab.popen(["sh", "-c", "stty size; read line; stty size"], stdout=out, tty=(33, 77))
    while b"33 77" not in out.data:
        lab.pump(LIMIT)
    command.set_window(44, 88)
    command.write(b"go\n")
    assert command.wait(LIMIT) == 0
    assert b"44 88" in out.data


@needs_qemu
def test_the_checkout_is_there_and_only_the_share_is_kept(lab: Lab) -> None:
    kept, lost = SHARE / "test-lab-kept", CHECKOUT / "test-lab-lost"
    try:
        status, out, err = run(lab, f"pwd; test -e Makefile && echo mark | tee {kept} >{lost} && cat {lost}")
        assert (status, out, err) == (0, f"{os.getcwd()}\nmark\n".encode(), b"")
        assert kept.read_text() == "mark\n"
        assert not lost.exists()
    finally:
        kept.unlink(missing_ok=True)


@needs_qemu
def test_its_clock_is_the_hosts(lab: Lab) -> None:
    """The kernel does not measure it, which fails where the emulator waits for a CPU."""
    out = Output()
    before = time.monotonic()
    lab.run(["cat", "/proc/uptime"], stdout=out)
    lab.run(["sleep", "2"])
    lab.run(["cat", "/proc/uptime"], stdout=out)
    between = time.monotonic() - before
    first, last = (float(line.split()[0]) for line in out.data.splitlines())
    assert 2 <= last - first <= between + 0.02


@needs_qemu
def test_kvm_makes_a_machine_in_it(lab: Lab) -> None:
    make_vm = "import fcntl, os; fcntl.ioctl(os.open('/dev/kvm', os.O_RDWR), 0xAE01, 0)"
    assert lab.run([sys.executable, "-c", make_vm]) == 0
    assert run(lab, "cat /sys/module/kvm_amd/parameters/npt")[1] in (b"1\n", b"Y\n")
    assert run(lab, "exec 3<>/dev/net/tun && exec 4<>/dev/vhost-vsock")[0] == 0


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def wait_for_end(pids: set[int]) -> None:
    """Return when none of the processes is left; fails when one outlives the limit."""
    deadline = time.monotonic() + LIMIT
    while alive := [pid for pid in pids if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.05)


@needs_qemu
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 128 + 15), (signal.SIGKILL, -9)])
def test_the_tool_ends_and_takes_qemu_with_it(number: int, status: int) -> None:
    tool = subprocess.Popen([*TOOL, "--", "sh", "-c", "echo up; exec sleep 1000"], cwd=CHECKOUT, stdout=subprocess.PIPE)
    assert tool.stdout is not None
    with contextlib.closing(tool.stdout):
        assert tool.stdout.readline() == b"up\n"
        started = children(tool.pid)
        assert started
        tool.send_signal(number)
        assert tool.wait(LIMIT) == status
    wait_for_end(started)


@needs_qemu
def test_on_a_terminal_keys_go_to_the_command_and_the_terminal_comes_back() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 90))
    before = termios.tcgetattr(theirs)
    script = "trap 'echo got-int; exit 5' INT; stty size; while :; do sleep 0.1; done"
    tool = subprocess.Popen([*TOOL, "--", "sh", "-c", script], cwd=CHECKOUT, stdin=theirs, stdout=theirs, stderr=theirs)
    screen = b""
    deadline = time.monotonic() + LIMIT
    while tool.poll() is None and time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            screen += os.read(ours, 65536)
            if screen.endswith(b"40 90\r\n"):
                os.write(ours, b"\x03")
    assert tool.wait(LIMIT) == 5, screen
    assert b"got-int" in screen or b"got-int" in os.read(ours, 65536)
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


@needs_qemu
def test_a_terminal_that_is_closed_ends_the_lab() -> None:
    ours, theirs = pty.openpty()
    command = [*TOOL, "--", "sh", "-c", "echo up; trap '' HUP; exec sleep 1000"]
    tool = subprocess.Popen(command, cwd=CHECKOUT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    screen = b""
    while not screen.endswith(b"up\r\n"):
        screen += os.read(ours, 65536)
    started = children(tool.pid)
    os.close(ours)
    assert tool.wait(LIMIT) == 128 + signal.SIGHUP
    wait_for_end(started)


def test_a_lab_whose_kernel_dies_says_of_what() -> None:
    with Lab() as lab:
        script = "seq -f 'line %g of what is of no interest any more' 300 >/dev/kmsg; echo c >/proc/sysrq-trigger"
        with pytest.raises(LabError, match="the lab ended by itself") as error:
            lab.run(["sh", "-c", script])
    said = str(error.value)
    assert "sysrq: Trigger a crash" in said or "sysrq triggered crash" in said
    assert "line 300" not in said


@needs_qemu
def test_a_hostile_lab_has_another_cpu_that_is_busy() -> None:
    with Lab(hostile=True, cpus=1, memory="1G") as lab:
        out = Output()
        busy = "until cat /proc/[0-9]*/stat | grep -q '(busybox) R'; do :; done"  # it sleeps now and then
        assert lab.run(["sh", "-c", f"grep -cw erms /proc/cpuinfo; {busy}"], stdout=out, timeout=LIMIT) == 0
    assert out.data == b"1\n"


def test_who_takes_which_file(tmp_path: Path) -> None:
    ordinary, hostile = Claims(tmp_path, "0"), Claims(tmp_path, "hostile")
    assert not ordinary.take("tests/guest/test_immediate.py"), (
        "it is for the hostile lab alone, even before that has it"
    )
    assert hostile.take("tests/guest/test_immediate.py")
    assert not hostile.take("tests/guest/test_boot.py"), "and nothing else is for that one"
    assert ordinary.take("tests/guest/test_boot.py") and ordinary.take("tests/guest/test_boot.py")


def test_files_that_are_named_are_there() -> None:
    assert {path.name for path in (CHECKOUT / "tests" / "guest").glob("test_*.py")} >= RACES
    assert RACES >= HOSTILE
    assert [file for file in order.LONGEST if not (CHECKOUT / "tests" / file).exists()] == []


@needs_qemu
def test_a_lab_that_cannot_start_says_why() -> None:
    with pytest.raises(LabError, match="1X"), Lab(memory="1X"):
        pass


# -- the mending of the lab's QEMU, tried on a library that has its functions in the form that compilers give them


# The CPU's registers are at 0, what lies before them is at -0x200.
SOURCE = """
    .globl helper_vmrun, do_interrupt_x86_hardirq, cpu_clear_ignne, helper_lookup_tb_ptr, flags
    .type helper_lookup_tb_ptr, @function
    .type cpu_clear_ignne, @function
    .type helper_vmrun, @function
    .type do_interrupt_x86_hardirq, @function
do_interrupt_x86_hardirq:
    movl %edx, 0x88(%rdi)
    ret
    .size do_interrupt_x86_hardirq, . - do_interrupt_x86_hardirq
another:
    ret
helper_vmrun:
    pushq %rbx
    pushq %r12
    movq %rdi, %rbx
    movl %esi, %r12d
    movl %r12d, 0x80(%rbx)
    {store}
    movl $0, 0x84(%rbx)
    movl $1, %edx
    call {called}
    popq %r12
    popq %rbx
    ret
    .size helper_vmrun, . - helper_vmrun
cpu_clear_ignne:
    {start}
    andl $0, flags(%rip)
    ret
    .size cpu_clear_ignne, . - cpu_clear_ignne
helper_lookup_tb_ptr:
    subq $0x48, %rsp
    movq %rdi, (%rsp)
    movq %rsi, 8(%rsp)
    movdqa (%rsp), %xmm0
    movq %rdi, %rax
    movaps %xmm0, 0x20(%rsp)
    movaps %xmm0, 0x10(%rsp)
    {after}
    subq $0x20, %rsp
    movdqa {read}(%rsp), %xmm0
    movq %xmm0, %rax
    movhlps %xmm0, %xmm0
    movq %xmm0, %rdx
    addq %rdx, %rax
    addq $0x68, %rsp
    ret
    .size helper_lookup_tb_ptr, . - helper_lookup_tb_ptr
    .data
    .type flags, @object
flags:
    .long 5
    .size flags, . - flags
"""
SHORT, LONG = "movl %esi, -0x200(%rbx)", "movl %r12d, -0x200(%rbx)"
UNTOUCHED = 0x5A5A5A5A


def build(
    folder: Path,
    store: str = SHORT,
    called: str = "do_interrupt_x86_hardirq",
    start: str = "endbr64",
    after: str = "",
    read: str = "0x40",
) -> Path:
    source, library = folder / "fake.s", folder / "fake.so"
    source.write_text(SOURCE.format(store=store, called=called, start=start, after=after, read=read))
    command = ["gcc", "-shared", "-nostdlib", "-Wl,-Bsymbolic", "-Wl,-z,noexecstack", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return library


def inject(library: Path, vector: int) -> tuple[int, int, int, int]:
    """Call the function; what it left in `exception_index`, in two other fields, and what the one it calls did."""
    memory = (ctypes.c_uint32 * 1024)(*[UNTOUCHED] * 1024)
    ctypes.CDLL(str(library)).helper_vmrun(ctypes.c_void_p(ctypes.addressof(memory) + 0x400), vector)
    return memory[0x200 // 4], memory[0x480 // 4], memory[0x484 // 4], memory[0x488 // 4]


@pytest.mark.parametrize("store", [SHORT, LONG])
def test_the_vector_is_delivered_and_not_kept(tmp_path: Path, store: str) -> None:
    library = build(tmp_path, store)
    assert inject(library, 0x77) == (0x77, 0x77, 0, 1)
    better = tmp_path / "better.so"
    better.write_bytes(mended(library.read_bytes()))
    assert inject(better, 0x77) == (UNTOUCHED, 0x77, 0, 1)


@pytest.mark.parametrize("start", ["endbr64", "nop"])
def test_the_flags_of_cpu_0_are_left_alone(tmp_path: Path, start: str) -> None:
    better = tmp_path / "better.so"
    better.write_bytes(mended(build(tmp_path, start=start).read_bytes()))
    for library, left in ((tmp_path / "fake.so", 0), (better, 5)):
        loaded = ctypes.CDLL(str(library))
        loaded.cpu_clear_ignne()
        assert ctypes.c_int.in_dll(loaded, "flags").value == left


def look_up(library: Path) -> int:
    function = ctypes.CDLL(str(library)).helper_lookup_tb_ptr
    function.restype, function.argtypes = ctypes.c_uint64, (ctypes.c_uint64, ctypes.c_uint64)
    return int(function(0x700, 0x30))


def test_the_search_reads_the_record_itself(tmp_path: Path) -> None:
    better = tmp_path / "better.so"
    library = build(tmp_path, after="movq $0, 0x20(%rsp)")  # only the copy
    better.write_bytes(mended(library.read_bytes()))
    assert (look_up(library), look_up(better)) == (0x30, 0x730)


@pytest.mark.parametrize("after, read", [("", "0x30"), ("movaps %xmm0, 0x20(%rsp)", "0x40")])
def test_a_search_of_another_kind_stays_as_it_is(tmp_path: Path, after: str, read: str) -> None:
    library = build(tmp_path, after=after, read=read)
    place = Place(ELFFile(io.BytesIO(library.read_bytes())), library.read_bytes(), LOOKUP)
    assert place.code in mended(library.read_bytes())


@pytest.mark.parametrize(
    "store, called, words",
    [
        ("nop", "do_interrupt_x86_hardirq", "has 0 instructions"),
        (f"{SHORT}\n{LONG}", "do_interrupt_x86_hardirq", "has 2 instructions"),
        (SHORT, "another", "has 0 instructions"),
    ],
)
def test_what_looks_otherwise_is_left_alone(tmp_path: Path, store: str, called: str, words: str) -> None:
    with pytest.raises(MendError, match=words):
        mended(build(tmp_path, store, called).read_bytes())


@pytest.mark.parametrize("program", [b"", b"#!/bin/sh\n", b"\x7fELF", Path("/bin/sh").read_bytes()])
def test_other_programs_are_refused(program: bytes) -> None:
    with pytest.raises(MendError):
        mended(program)


# -- the benchmark as a program: how it ends when it is interrupted --------------------------------------------------


ROOT = Path(__file__).resolve().parents[2]
needs_tools = pytest.mark.skipif(
    sys.prefix == sys.base_prefix or not all(map(shutil.which, ("mke2fs", "busybox", "ldd"))),
    reason="it makes disks before it measures",
)


@needs_tools
@pytest.mark.parametrize("number,status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line_and_a_status(tmp_path: Path, number: int, status: int) -> None:
    command = [sys.executable, "-m", "tests.bench", "--only", "startup", "--quick", "--plot", "none"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("==> bench: ")
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (status, "")
    # A recipe may have said how far it was
    assert "Traceback" not in errors, errors
    assert errors.splitlines()[-1] == f"bench: interrupted by {signal.Signals(number).name}"
    assert "Traceback" not in errors


# -- a run of tests that breaks off goes on where it was -------------------------------------------------------------


BREAKS = """
import os, pathlib, pytest
def test_first(): pathlib.Path("first").open("a").write("x")
def test_breaks(): os._exit(9) if {times} > int(os.environ["RUN"]) else None
@pytest.mark.skip
def test_skipped(): pass
def test_wrong(): assert False
def test_last(): pass
"""


def play(folder: Path, number: int, *options: str) -> int:
    environment = {**os.environ, "PYVMM_TEST_JOURNAL": str(folder / "journal"), "RUN": str(number)}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "pytest", "-p", "tests.journal", "-p", "no:cacheprovider", *options, "test_it.py"]
    return subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL).returncode


def test_a_run_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(BREAKS.format(times=1))
    assert play(tmp_path, 0) == 9
    journal = Journal(tmp_path / "journal")
    assert journal.unfinished() == ["test_it.py::test_breaks"]
    assert {name for name, _ in journal.slowest(9)} == journal.outcomes.keys()
    ((file, seconds),) = journal.slowest_files(9)
    assert (file, seconds) == ("test_it.py", sum(journal.seconds.values()))
    assert play(tmp_path, 1) == 1
    assert (tmp_path / "first").read_text() == "x", "what ended does not run again"
    assert Journal(tmp_path / "journal").counts() == {"passed": 3, "skipped": 1, "failed": 1}


def test_what_stops_everything_twice_has_failed(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(BREAKS.format(times=3))
    assert [play(tmp_path, number) for number in range(3)] == [9, 9, 1]
    assert Journal(tmp_path / "journal").counts() == {"passed": 2, "error": 1, "skipped": 1, "failed": 1}


def test_with_workers_a_crash_ends_one_test(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(BREAKS.format(times=1))
    assert play(tmp_path, 0, "-n", "2") == 1
    journal = Journal(tmp_path / "journal")
    assert sorted(journal.failed()) == ["test_it.py::test_breaks", "test_it.py::test_wrong"]
    assert journal.counts() == {"passed": 2, "skipped": 1, "failed": 2}
    journal.write(test="test_it.py::test_breaks", again=True)
    assert play(tmp_path, 1, "-n", "2") == 0, "all that is left passes"
    assert Journal(tmp_path / "journal").counts() == {"passed": 3, "skipped": 1, "failed": 1}
    assert (tmp_path / "first").read_text() == "x", "what ended does not run again"


def test_what_never_ended_counts_as_an_error(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(BREAKS.format(times=3))
    play(tmp_path, 0)
    assert Journal(tmp_path / "journal").counts() == {"passed": 1, "error": 1}


def test_what_failed_can_be_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(BREAKS.format(times=0))
    assert play(tmp_path, 0) == 1
    journal = tmp_path / "journal"
    assert Journal(journal).failed() == ["test_it.py::test_wrong"]
    Journal(journal).write(test="test_it.py::test_wrong", again=True)
    (tmp_path / "test_it.py").write_text(BREAKS.format(times=0).replace("assert False", "assert True"))
    assert play(tmp_path, 1) == 0
    assert Journal(journal).counts() == {"passed": 4, "skipped": 1}
    assert (tmp_path / "first").read_text() == "x"


# -- what the suites of tests/conformance say of themselves -----------------------------------------------------------

NAMES = Counter(case.name for suite in SUITES.values() for scene in suite.scenes for case in scene.cases)


def test_a_case_has_a_name_of_its_own() -> None:
    assert [name for name, count in NAMES.items() if count > 1] == []


def test_scenes_of_a_suite_have_names_of_their_own() -> None:
    for suite in SUITES.values():
        assert [name for name, count in Counter(scene.name for scene in suite.scenes).items() if count > 1] == []


def test_a_difference_is_a_row_of_the_table() -> None:
    lines = documents.DIFFERENCES.read_text().splitlines()
    rows = [line.split("|")[1] for line in lines if line.startswith("| ")][2:]
    assert [name for name, known in DIFFERENCES.items() if not any(known.row in row for row in rows)] == []
    assert len(rows) <= 12, "a difference is an exception: join what has one reason"


def test_differences_are_cases() -> None:
    assert [name for name in DIFFERENCES if name not in NAMES] == []


CASE = case("a/b", "b is 1", equal("b", "1"))


def result(problem: str = "", **seen: str) -> Result:
    return Result(seen, problem, 0.0)


def test_a_verdict() -> None:
    assert judge(CASE, result(b="1")) == "pass"
    assert judge(CASE, result(b="2")) == "fail"
    assert judge(CASE, result()) == "fail"
    assert judge(CASE, result("it did not end")) == "error"
    assert judge(CASE, result("it did not end", b="1")) == "pass", "it came as far as that"


def test_what_has_to_be_as_with_the_reference() -> None:
    compared = CASE._replace(compared=("c",))
    assert judge(compared, result(b="1", c="x"), result(b="1", c="x")) == "pass"
    assert judge(compared, result(b="1", c="y"), result(b="1", c="x")) == "fail"
    assert judge(compared, result(b="1", c="y"), result("it did not end")) == "pass", "there is nothing to compare with"


def test_a_difference_is_refused_with_its_message_or_fails() -> None:
    known = Difference("a row", message="cannot be had").holds
    assert judge(CASE, result(errors="config.json: this cannot be had"), difference=known) == "different"
    assert judge(CASE, result(errors="another error"), difference=known) == "fail"
    assert judge(CASE, result(b="1"), difference=known) == "pass"
    shown = Difference("a row", shows=equal("c", "2")).holds
    assert judge(CASE, result(c="2"), difference=shown) == "different"
    assert judge(CASE, result(c="3"), difference=shown) == "fail"


def test_a_scene_that_a_lab_has_lost_twice_is_a_result(tmp_path: Path) -> None:
    journal = conformance_journal.Journal(tmp_path / "journal")
    journal.begin(("oci", "pyvmm", "one"))
    assert journal.results() == {}
    journal.begin(("oci", "pyvmm", "one"))
    assert journal.results()["oci", "pyvmm", "one"].problem == conformance_journal.LOST
    journal.end(("oci", "pyvmm", "one"), result(b="1"))
    assert journal.results()["oci", "pyvmm", "one"].seen == {"b": "1"}
