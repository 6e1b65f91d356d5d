"""`.ci/run`: it starts with today's package index and an empty home, and fails when one of its parts does; and what
`make test` runs ends with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools import deps

RUN = Path(__file__).resolve().parents[2] / ".ci" / "run"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which the programs that the script starts write down how they were called, and with which environment."""
    programs = tmp_path / "bin"
    programs.mkdir()
    scripts = {
        "apt-get": 'echo "apt-get $*" >>"$LOG"',
        "sudo": 'exec "$@"',
        "make": 'echo "make $* in $HOME with $(ls -A "$HOME" | wc -l) files" >>"$LOG"\n'
        'echo "${XDG_CACHE_HOME-no cache} ${PYVMM_GUEST_KERNEL-no kernel}" >>"$LOG"\n'
        'touch "$HOME/made"\n[ "$1" != "${FAILS-}" ] || exit 3\n[ "$1" != "${STAYS-}" ] || exec sleep 60',
    }
    for name, text in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "XDG_CACHE_HOME": str(tmp_path),
        "PYVMM_GUEST_KERNEL": "/old",
    }


@pytest.mark.parametrize("fails", ["", "check", "test"])
def test_it_has_todays_index_and_an_empty_home_and_leaves_nothing(environment: dict[str, str], fails: str) -> None:
    done = subprocess.run([RUN], env={**environment, "FAILS": fails}, capture_output=True, text=True, timeout=60)
    assert done.returncode == (3 if fails else 0), done.stderr
    update, check, first, test, second = Path(environment["LOG"]).read_text().splitlines()
    assert update == "apt-get -q update"
    home = check.split()[3]
    assert check == f"make check in {home} with 0 files" and test == f"make test in {home} with 1 files"
    assert first == second == "no cache no kernel"
    assert home != os.environ.get("HOME") and not Path(home).exists()


def test_it_leaves_nothing_when_it_is_ended(environment: dict[str, str]) -> None:
    log = Path(environment["LOG"])
    with subprocess.Popen([RUN], env={**environment, "STAYS": "check"}, start_new_session=True) as process:
        while not (log.exists() and "no kernel" in log.read_text()):
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
    assert not Path(log.read_text().split(" in ")[1].split()[0]).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_the_tests_run_in_ends_with_them(tmp_path: Path, number: signal.Signals) -> None:
    """pytest, or the lab, when whoever runs both gets a signal alone."""
    (tmp_path / "test_stays.py").write_text(
        "import os, signal\n\ndef test_stays():\n"
        f"    open('{tmp_path}/pids', 'w').write(f'{{os.getpid()}} {{os.getppid()}}\\n')\n    signal.pause()\n"
    )
    main = (
        "import pathlib, sys; from tools import run_tests; "
        "run_tests.JOURNAL = pathlib.Path(sys.argv[1], 'journal'); "
        "run_tests.main(['--native', '--rootdir', sys.argv[1], sys.argv[1]])"
    )
    pids = tmp_path / "pids"
    with subprocess.Popen([sys.executable, "-c", main, tmp_path], cwd=RUN.parents[1]) as process:
        while not (pids.exists() and pids.read_text().endswith("\n")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) == -number
    for pid in map(int, pids.read_text().split()):
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.02)


def test_tests_that_stand_still_are_ended_and_named(tmp_path: Path) -> None:
    """Without a lab too: else a run would use all of its job's time, and print no failure."""
    (tmp_path / "test_stays.py").write_text("import signal\n\ndef test_stays():\n    signal.pause()\n")
    main = (
        "import pathlib, sys; from tools import run_tests; run_tests.STALL = 10.0; "  # of a worker's start, too
        "run_tests.JOURNAL = pathlib.Path(sys.argv[1], 'journal'); "
        "sys.exit(run_tests.main(['--native', '-n', '1', '--rootdir', sys.argv[1], sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", main, tmp_path], cwd=RUN.parents[1], capture_output=True, text=True)
    assert done.returncode == 1
    assert "stand still: test_stays.py::test_stays" in done.stdout + done.stderr


def test_tests_that_failed_are_named_at_the_end(tmp_path: Path) -> None:
    """Whoever has only the end of a long output learns there what to mend."""
    names = ["first", "second", "third"]
    tests = "".join(f"def test_{each}():\n    assert {each!r} == 'other'\n\n\n" for each in names)
    (tmp_path / "test_it.py").write_text(tests)
    code = (
        "import pathlib, sys; from tools import run_tests; "
        "run_tests.JOURNAL = pathlib.Path(sys.argv[1], 'journal'); "
        "sys.exit(run_tests.main(['--native', '-n', '1', '--rootdir', sys.argv[1], sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=RUN.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 1, done.stdout
    end = done.stdout[done.stdout.index("<== tests: failed") :]
    assert [f"FAILED test_it.py::test_{each}\n" in end for each in names] == [True] * 3
    assert all(f"assert '{each}' == 'other'" in end for each in names)
    assert done.stdout.splitlines()[-1].strip("= ").startswith("3 failed in ")


def test_the_makefile_installs_groups_that_exist() -> None:
    groups = re.findall(r"tools/deps\.py ([a-z ]+)", (RUN.parents[1] / "Makefile").read_text())
    assert len(groups) > 10
    for each in groups:
        deps.check_groups(each.split())
