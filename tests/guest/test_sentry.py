"""The Sentry as the kernel of a machine: a program in ring 3."""

from __future__ import annotations

import pytest

from pyvmm_sentry import program
from tests.sentry.test_kernel import boot_on_machine
from tests.sentry.test_programs import BUSYBOX

pytestmark = pytest.mark.guest


def test_a_machine_runs_a_program() -> None:
    assert boot_on_machine(program.kernel(), BUSYBOX, "-- busybox echo hello from ring 3") == b"hello from ring 3\n"


def test_a_machine_reports_how_a_program_ended() -> None:
    output = boot_on_machine(program.kernel(), BUSYBOX, "-- busybox cat /nonexistent")
    assert output.endswith(b"sentry: the program exited with 1\n")
