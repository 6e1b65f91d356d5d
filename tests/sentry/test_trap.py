"""The platform trap: what a hostile program, a core that turned bad and a killed process can do."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pyvmm_sentry import program
from tests.sentry.conftest import Compile
from tests.sentry.test_programs import BUSYBOX, run

ENDS = {
    "code": -signal.SIGSEGV,
    "control": -signal.SIGSEGV,
    "  there is a parent:": 1,
    "  no such file:": -1,
    "stack": 0,
    "  result:": -2,
    "use": 0,
    "overflow": -signal.SIGILL,
    "  mapped:": 0,
    "  unmapped:": 0,
    "  protected:": -1,
    "  moved:": 0,
    "mappings": -signal.SIGSEGV,
    "hidden": 0,
    **dict.fromkeys(("RAM", "blocks", "unmap", "copy", "send", "fault", "nonsense", "nothing", "interruption"), 612),
}
"""What attacks print; the last ones jump to each byte of the stub, with registers for a call."""
SHOW = "{ address, size, prot, MAP_SHARED | MAP_FIXED, fd, ram_offset }"


def test_a_program_gains_nothing_from_what_lies_above_it(compile_static: Compile) -> None:
    done = run(program.trap(), "--", compile_static("trapped"))
    rows = [line.rsplit(maxsplit=1) for line in done.stdout.decode().splitlines()]
    assert {name: int(value) for name, value in rows} == ENDS
    assert done.returncode == 0


def changed(folder: Path, file: str, right: str, wrong: str) -> Path:
    """The platform with a change of its sources."""
    shutil.copytree(program.TRAP, folder)
    source = (folder / file).read_text()
    assert source.count(right) == 1
    (folder / file).write_text(source.replace(right, wrong))
    return program.hosted("bad", program.with_host(folder))


def approving(folder: Path) -> Path:
    """The platform with a core that approves each frequent call after handling it: the host executes it, too."""
    return changed(folder, "stub.c", "return answer(stub, value);", "return approve(stub);")


@pytest.mark.parametrize(
    "wrong",
    [
        "{ address, size, prot, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1ull, 0 }",
        "{ address, size, prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, ram_offset }",
        "{ address, size, prot, MAP_SHARED | MAP_FIXED, 3, ram_offset }",
    ],
)
def test_the_stub_makes_no_other_mappings_for_a_core_that_turned_bad(tmp_path: Path, wrong: str) -> None:
    bad = changed(tmp_path / "trap", "space.c", SHOW, wrong)
    assert run(bad, "--", BUSYBOX, "true").returncode == -signal.SIGKILL


def test_calls_that_a_core_can_approve_reach_nothing_outside(tmp_path: Path) -> None:
    bad = approving(tmp_path / "trap")
    done = run(bad, "--", BUSYBOX, "sh", "-c", "echo once; echo once >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"once\n", b"once\n")


def test_names_that_a_core_can_approve_lead_nowhere(compile_static: Compile, tmp_path: Path) -> None:
    """The host's kernel executes the calls of the program, which sees no file of the host and gets no memory."""
    bad = approving(tmp_path / "trap")
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    lines = run(bad, "--", compile_static("outside"), tmp_path).stdout.decode().splitlines()
    assert len(lines) == 36
    assert [line for line in lines if not line.endswith(": nothing")] == []


USER_NAMESPACE = ("unshare", "--user", "--map-root-user")


@pytest.mark.skipif(
    bool(subprocess.run([*USER_NAMESPACE, "true"], capture_output=True).returncode), reason="no user namespaces here"
)
def test_a_host_without_user_namespaces_runs_programs() -> None:
    """Calls with names are then reported by signals."""
    script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all -- "$@"'
    words = [str(program.trap()), "--", BUSYBOX, "ls", "/dev/null"]
    assert run(*USER_NAMESPACE, "sh", "-c", script, "sh", *words).stdout == b"/dev/null\n"


def test_calls_that_a_core_can_approve_take_no_more_memory(compile_static: Compile, tmp_path: Path) -> None:
    bad = approving(tmp_path / "trap")
    with subprocess.Popen([str(bad), "--", compile_static("growth")], stderr=subprocess.PIPE) as process:
        assert process.stderr and process.stderr.readline() == b"done\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        sizes = [os.stat(f"/proc/{child}/fd/{fd}").st_size for child in children for fd in (0, 1)]
        process.kill()
    assert sizes and max(sizes) <= 256 << 20


def test_no_process_outlives_the_core(compile_static: Compile) -> None:
    command = [str(program.trap()), "--", str(compile_static("orphan"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"done\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        watched = [os.pidfd_open(int(child)) for child in children]
        time.sleep(0.3)  # it runs again
        process.kill()
        ended = [bool(select.select([fd], [], [], 10)[0]) for fd in watched]
        for fd in watched:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)
        assert ended == [True] * len(watched)


def test_a_process_that_the_host_kills_is_one_that_is_killed() -> None:
    command = [str(program.trap()), "--", BUSYBOX, "sh", "-c", "busybox cat; echo $?; busybox echo there"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b"here\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"here\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)  # the newest
        process.stdin.close()
        assert process.stdout.read() == b"137\nthere\n"
        assert process.wait(60) == 0
