"""Sandboxes with several CPUs, on the platform trap: programs that run at the same time in one address space."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from pyvmm_sentry import program
from tests.kata.oci_runtime import eventually
from tests.sentry.conftest import Compile
from tests.sentry.test_programs import BUSYBOX, run

STORMS = ("futexes", "pipes", "signals", "processes", "memory", "copies")
MINUTES = 10
SCRIPT = """
busybox nproc
busybox taskset 2 busybox nproc
busybox taskset 8 busybox nproc
busybox grep -c ^processor /proc/cpuinfo
busybox grep -c '^cpu[0-9]' /proc/stat
busybox cat /sys/devices/system/cpu/online
busybox taskset 6 busybox grep Cpus_allowed_list /proc/self/status
"""


@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize("storm", STORMS)
def test_programs_survive_storms(compile_static: Compile, storm: str, cpus: int) -> None:
    """A wake-up that is lost ends in a timeout; what the threads count must be right."""
    done = run(program.trap(), "--cpus", f"{cpus}", "--", compile_static("storms"), storm, "0.4")
    assert (done.returncode, done.stdout) == (0, f"{storm}\n".encode())


@pytest.mark.parametrize("cpus", [1, 2])
def test_tracers_that_end_at_any_time_leave_nothing(compile_static: Compile, cpus: int) -> None:
    """All processes can be ended and waited for afterwards, and no memory is lost."""
    done = run(program.trap(), "--cpus", f"{cpus}", "--", compile_static("traces"), "1.5")
    assert (done.returncode, done.stdout) == (0, b"traces\n"), done.stderr


def test_changes_of_an_address_space_overtake_none_before(compile_static: Compile) -> None:
    """Its processes take turns on one CPU, so one that was told to map a page may do so late."""
    words = [f"{min(os.sched_getaffinity(0))}", str(program.trap()), "--cpus", "2", "--", str(compile_static("storms"))]
    done = run(BUSYBOX, "taskset", "-c", *words, "copies", "2")
    assert (done.returncode, done.stdout) == (0, b"copies\n")


@pytest.mark.long
@pytest.mark.parametrize("storm", STORMS)
def test_programs_survive_storms_of_minutes(compile_static: Compile, storm: str) -> None:
    words = ("--cpus", "2", "--", compile_static("storms"), storm, f"{MINUTES * 60}")
    done = subprocess.run([program.trap(), *words], capture_output=True, timeout=MINUTES * 60 + 60)
    assert (done.returncode, done.stdout) == (0, f"{storm}\n".encode())


def test_programs_see_the_cpus_of_the_sandbox() -> None:
    done = run(program.trap(), "--cpus", "3", "--", BUSYBOX, "sh", "-c", "busybox mkdir -p /proc" + SCRIPT)
    assert done.stdout.decode().split("\n") == [
        *("3", "1"),
        *("3", "3", "0-2"),
        *("Cpus_allowed_list:\t1-2", ""),
    ]
    assert b"taskset" in done.stderr  # none of the CPUs in the mask exists


def test_without_an_option_there_are_as_many_as_the_platform_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    for use in ({min(allowed)}, allowed):
        names = ",".join(f"{cpu}" for cpu in use)
        done = run(BUSYBOX, "taskset", "-c", names, program.trap(), "--", BUSYBOX, "nproc")
        assert done.stdout == f"{len(use)}\n".encode()


def test_threads_run_where_they_may(compile_static: Compile) -> None:
    done = run(program.trap(), "--cpus", "3", "--", compile_static("placed"))
    assert (done.returncode, done.stdout) == (0, b"placed\n" * 3)


def test_a_program_with_several_processes_of_the_host_ends_with_them(compile_static: Compile) -> None:
    """One that the host kills takes the program with it, and leaves none behind."""
    command = [str(program.trap()), "--cpus", "2", "--", str(compile_static("placed")), "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"waits\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 3  # one without a program, and two for that with two threads
        os.kill(int(children[-1]), signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        eventually(lambda: not any(is_alive(int(child)) for child in children), "a process is left")


def is_alive(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
