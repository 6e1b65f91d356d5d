"""Debian's containerd with our shim and a guest that is none: all of the host's side in seconds, without KVM."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kata import containerd_checks as checks
from tests.kata.containerd import Containerd, need

HERE = Path(__file__).resolve()
PROGRAMS = checks.Programs(hello=("print", "hello\n"), exit_7=("exit", "7"), sleep=("sleep",), cat=("cat",))
SHIM = f"""#!{sys.executable}
import sys
sys.path[:0] = {[str(HERE.parents[2]), str(HERE.parents[2] / "examples" / "kata")]!r}
import pyvmm_kata.vm
from tests.kata.fake_guest import FakeGuest
pyvmm_kata.vm.PyvmmVm = FakeGuest
from pyvmm_kata.shim.main import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Containerd]:
    need("containerd", "ctr")
    with tempfile.TemporaryDirectory(prefix="ctd") as name:
        folder = Path(name)
        shim = folder / "containerd-shim-fake-v2"
        shim.write_text(SHIM)
        shim.chmod(0o755)
        made = Containerd(folder, "io.containerd.fake.v2", name)
        try:
            made.start()
            made.import_image()
            yield made
        finally:
            made.stop()


def test_run(daemon: Containerd) -> None:
    checks.check_run(daemon, PROGRAMS)


def test_stdin(daemon: Containerd) -> None:
    checks.check_stdin(daemon, PROGRAMS)


def test_detached(daemon: Containerd) -> None:
    checks.check_detached(daemon, PROGRAMS)


def test_restart_of_containerd(daemon: Containerd) -> None:
    checks.check_restart_of_containerd(daemon, PROGRAMS)


def test_death_of_the_shim(daemon: Containerd) -> None:
    checks.check_death_of_the_shim(daemon, PROGRAMS)


def test_deaths_at_random(daemon: Containerd) -> None:
    checks.check_deaths_at_random(daemon, PROGRAMS, rounds=12, longest=0.6, seed=1)
