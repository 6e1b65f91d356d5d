"""ptrace inside of a machine whose kernel is the Sentry: strace and each request, compared with Linux."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.sentry.conftest import Compile
from tests.sentry.conftest import compile_static as compile_static
from tests.sentry.conftest import folder as folder
from tests.sentry.test_command import ENVIRONMENT
from tests.sentry.test_programs import BUSYBOX
from tests.sentry.test_tracers import clean

pytestmark = pytest.mark.guest

KVM = (sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "kvm", "--root", "none")


def test_requests_of_tracers_return_what_they_return_on_linux(compile_static: Compile, folder: str) -> None:
    """Stops, events, memory, registers of the CPU and the FPU, steps, signals and ends."""
    program = compile_static("tracers")
    native, ours = (
        subprocess.run([*head, program, folder], stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT)
        for head in ((), KVM)
    )
    assert native.returncode == ours.returncode == 42, ours.stderr
    rows = [each.stdout.decode().splitlines() for each in (native, ours)]
    assert len(rows[0]) > 80
    assert rows[1] == rows[0]


@pytest.mark.parametrize("cpus", [1, 2])
def test_tracers_that_end_at_any_time_leave_nothing(compile_static: Compile, cpus: int) -> None:
    command = [*KVM, "--cpus", f"{cpus}", "--", str(compile_static("traces")), "1.5"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (0, b"traces\n"), done.stderr


def test_strace_prints_what_it_prints_on_linux() -> None:
    """Debian's, of two processes, of which a filter stops the chosen calls only."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    words = (
        "strace",
        "-f",
        "-qq",
        "--seccomp-bpf",
        "-e",
        "trace=write",
        "-e",
        "signal=none",
        BUSYBOX,
        "sh",
        "-c",
        "echo one; (echo two); echo three",
    )
    native, ours = (
        subprocess.run([*head, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=ENVIRONMENT)
        for head in ((), (*KVM, "--memory", "512", "--root", "/", "--"))
    )
    assert (ours.returncode, ours.stdout) == (native.returncode, native.stdout) == (0, "one\ntwo\nthree\n"), ours.stderr
    assert sorted(clean(ours.stderr).splitlines()) == sorted(clean(native.stderr).splitlines())
