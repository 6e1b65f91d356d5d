"""A run of tests that breaks off goes on where it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.journal import Journal

ROOT = Path(__file__).resolve().parents[2]

BREAKS = """
import os, pathlib, pytest
def test_first(): pathlib.Path("first").open("a").write("x")
def test_breaks(): os._exit(9) if {times} > int(os.environ["RUN"]) else None
@pytest.mark.skip
def test_skipped(): pass
def test_wrong(): assert False
def test_last(): pass
"""


def run(folder: Path, number: int, *options: str) -> int:
    environment = {**os.environ, "PYVMM_TEST_JOURNAL": str(folder / "journal"), "RUN": str(number)}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "pytest", "-p", "tests.journal", "-p", "no:cacheprovider", *options, "test_it.py"]
    return subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL).returncode


def test_a_run_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(BREAKS.format(times=1))
    assert run(tmp_path, 0) == 9
    assert Journal(tmp_path / "journal").unfinished() == ["test_it.py::test_breaks"]
    assert run(tmp_path, 1) == 1
    assert (tmp_path / "first").read_text() == "x", "what ended does not run again"
    assert Journal(tmp_path / "journal").counts() == {"passed": 3, "skipped": 1, "failed": 1}


def test_what_stops_everything_twice_has_failed(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(BREAKS.format(times=3))
    assert [run(tmp_path, number) for number in range(3)] == [9, 9, 1]
    assert Journal(tmp_path / "journal").counts() == {"passed": 2, "error": 1, "skipped": 1, "failed": 1}


def test_with_workers_a_crash_ends_one_test(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(BREAKS.format(times=1))
    assert run(tmp_path, 0, "-n", "2") == 1
    journal = Journal(tmp_path / "journal")
    assert journal.failed() == ["test_it.py::test_breaks", "test_it.py::test_wrong"]
    assert journal.counts() == {"passed": 2, "skipped": 1, "failed": 2}
    journal.write(test="test_it.py::test_breaks", again=True)
    assert run(tmp_path, 1, "-n", "2") == 0, "all that is left passes"
    assert Journal(tmp_path / "journal").counts() == {"passed": 3, "skipped": 1, "failed": 1}
    assert (tmp_path / "first").read_text() == "x", "what ended does not run again"


def test_what_never_ended_counts_as_an_error(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(BREAKS.format(times=3))
    run(tmp_path, 0)
    assert Journal(tmp_path / "journal").counts() == {"passed": 1, "error": 1}


def test_what_failed_can_be_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(BREAKS.format(times=0))
    assert run(tmp_path, 0) == 1
    journal = tmp_path / "journal"
    assert Journal(journal).failed() == ["test_it.py::test_wrong"]
    Journal(journal).write(test="test_it.py::test_wrong", again=True)
    (tmp_path / "test_it.py").write_text(BREAKS.format(times=0).replace("assert False", "assert True"))
    assert run(tmp_path, 1) == 0
    assert Journal(journal).counts() == {"passed": 4, "skipped": 1}
    assert (tmp_path / "first").read_text() == "x"
