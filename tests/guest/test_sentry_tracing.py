"""ptrace inside of a machine whose kernel is the Sentry: each request, compared with Linux."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.sentry.conftest import Compile
from tests.sentry.conftest import compile_static as compile_static
from tests.sentry.conftest import folder as folder
from tests.sentry.test_command import ENVIRONMENT

pytestmark = pytest.mark.guest

KVM = (sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "kvm")


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
