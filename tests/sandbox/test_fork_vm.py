"""``pytest --fork-vm``, with machines that run their programs here: what its user sees is what pytest alone prints."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE, eventually, needs_namespaces
from tests.sandbox.fake_machines import end_programs, environment, prepare

CONFTEST = """
import os, pytest
@pytest.fixture(scope="session")
def warm():
    with open(os.environ["PYVMM_PLACE"] + "/warmed", "a") as file:
        file.write("once\\n")
    print("warming")
    yield 42
    print("cooling")
"""
TESTS = """
import sys, warnings
import pytest
from double import double
state = []
def test_passes(warm):
    state.append(1)
    print("out of the test"); print("err of the test", file=sys.stderr)
    assert double(warm) == 84
def test_fails(warm):
    print("before it failed")
    assert double(warm) == 85
def test_has_a_state_of_its_own():
    state.append(2)
@pytest.mark.skip(reason="not now")
def test_is_skipped(): pass
@pytest.mark.xfail(strict=True)
def test_is_expected(): assert False
@pytest.mark.parametrize("number", [1, 2])
def test_many(number, record_property):
    record_property("number", number)
    warnings.warn("a warning")
@pytest.fixture
def broken(): raise OSError("the fixture is broken")
def test_errs(broken): pass
"""
DOUBLE = """
def double(number):
    if number < 0:
        return "never"
    return 2 * number
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A checkout with tests."""
    prepare(tmp_path)
    made = tmp_path / "project"
    made.mkdir()
    (made / "pytest.ini").write_text(
        f"[pytest]\nfork_vm_image = {tmp_path}/rootfs\nfork_vm_python = {sys.executable}\n"
    )
    for name, text in (("conftest", CONFTEST), ("test_all", TESTS), ("double", DOUBLE)):
        (made / f"{name}.py").write_text(text)
    yield made
    end_programs("PYVMM_PLACE", tmp_path)


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    place = project.parent
    variables = {**environment(place), "PYVMM_PLACE": str(place)}
    variables["PYTHONPATH"] += f":{project}"
    words = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:hypothesispytest", *arguments]
    return subprocess.Popen(
        words, cwd=project, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    with start(project, *arguments) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert not list(project.parent.glob("state/box-*")) and not list(project.parent.glob("pyvmm-*"))
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def fork(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(project, "-p", "tests.sandbox.fork_vm_machines", "--fork-vm", *arguments)


def compared(text: str) -> list[str]:
    """Without times and the lines that name the sandbox."""
    text = re.sub(r"in \d+\.\d+s", "in TIME", re.sub("alone.xml|forked.xml", "FILE", text))
    lines = [line.rstrip("= ").lstrip("= ") for line in text.splitlines()]
    return [line for line in lines if not line.startswith(("collect", "plugins:", "platform "))]


@needs_namespaces
def test_the_output_is_the_same(project: Path) -> None:
    alone = run(project, "-rA", "--junitxml=alone.xml")
    (project.parent / "warmed").unlink()
    forked = fork(project, "-rA", "--junitxml=forked.xml")
    assert forked.returncode == alone.returncode == 1, forked.stdout + forked.stderr
    assert compared(forked.stdout) == compared(alone.stdout)
    assert "of <Sandbox box-" in forked.stdout
    assert (project.parent / "warmed").read_text() == "once\n"

    def cases(name: str) -> list[object]:
        return [
            (
                {key: value for key, value in case.attrib.items() if key != "time"},
                [(e.tag, e.text) for e in case.iter()],
            )
            for case in ElementTree.parse(project / name).iter("testcase")
        ]

    assert cases("forked.xml") == cases("alone.xml")


@needs_namespaces
def test_tests_are_selected_and_run_at_a_time(project: Path) -> None:
    done = fork(project, "-q", "-k", "passes or many", "--fork-vm-jobs=3", "-s")
    assert "3 passed, 5 deselected" in done.stdout and "out of the test" in done.stdout


@needs_namespaces
def test_the_first_failure_ends_the_run_and_runs_again(project: Path) -> None:
    done = fork(project, "-x", "-q")
    assert "1 failed, 1 passed" in done.stdout and "stopping after 1 failures" in done.stdout
    done = fork(project, "--lf", "-q")
    assert "1 failed" in done.stdout and "passed" not in done.stdout


@needs_namespaces
def test_tests_are_listed(project: Path) -> None:
    done = fork(project, "--collect-only", "-q")
    assert done.returncode == 0 and "test_all.py::test_passes\n" in done.stdout


@needs_namespaces
def test_coverage_is_combined(project: Path) -> None:
    reports = []
    for run_ in (run, fork):
        done = run_(project, "--cov=double", "--cov-branch", "--cov-report=term-missing", "-k", "passes", "-q")
        assert done.returncode == 0, done.stdout + done.stderr
        reports += [line for line in done.stdout.splitlines() if line.startswith("double.py")]
        assert "warning" not in done.stdout.lower()
    assert reports[0] == reports[1] and reports[0].split()[1:3] == ["4", "1"]


@needs_namespaces
def test_a_test_that_ends_its_process_or_never_ends(project: Path) -> None:
    (project / "test_all.py").write_text(
        "import os, time\ndef test_dies(): os._exit(0)\ndef test_hangs(): time.sleep(600)\ndef test_passes(): pass\n"
    )
    done = fork(project, "--fork-vm-timeout=10")
    assert "2 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "test_dies: the sandbox ended while it ran the test" in done.stdout
    assert "test_hangs: the test did not end in 10 s" in done.stdout


@needs_namespaces
def test_errors_before_the_first_test(project: Path) -> None:
    (project / "test_broken.py").write_text("import nothing_like_this\n")
    done = fork(project)
    assert done.returncode == 2 and "No module named 'nothing_like_this'" in done.stdout
    assert "1 error" in done.stdout and "1 errors during collection" in done.stdout
    done = fork(project, "--fork-vm-image=none")
    assert done.returncode == 4 and "--fork-vm: " in done.stderr and "Traceback" not in done.stderr
    done = fork(project, "-o", "fork_vm_setup=exit 3")
    assert done.returncode == 4 and "status 3" in done.stderr
    done = fork(project, "-o", "fork_vm_image=")
    assert done.returncode == 4 and "needs an image" in done.stderr


@needs_namespaces
def test_ctrl_c_leaves_nothing(project: Path) -> None:
    reached = project / "reached"
    (project / "test_all.py").write_text(
        f"import time\ndef test_hangs(): open({str(reached)!r}, 'w').close(); time.sleep(600)\ndef test_other(): pass\n"
    )
    with start(project, "-p", "tests.sandbox.fork_vm_machines", "--fork-vm") as process:
        eventually(reached.exists, "the test does not run")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "KeyboardInterrupt" in out
    assert not list(project.parent.glob("state/box-*"))


@needs_namespaces
def test_a_test_that_lies_is_one_that_failed(project: Path) -> None:
    """It reports in the place of another, sends no report, or too much."""
    lies = {
        "other": '{"test": {"$report_type": "TestReport", "nodeid": "test_all.py::test_honest", "outcome": "passed"}}',
        "none": "no report",
        "kinds": '{"test": 7}',
        "keys": '{"warning": 1}',
        "collection": '{"collect": {"$report_type": "CollectReport", "nodeid": "test_all.py", "outcome": "failed", '
        '"longrepr": "of another", "result": null, "sections": []}}',
        "depth": "[" * 100_000,
    }
    code = "import gc, socket\ndef test_honest(): assert False\n"
    for name, line in lies.items():
        code += f"def test_{name}():\n    lie({line!r})\n"
    code += """
def lie(line):
    for each in gc.get_objects():
        if isinstance(each, socket.socket) and each.fileno() >= 0:
            try: each.getpeername()
            except OSError: continue
            each.sendall(line.encode() + b"\\n")
"""
    (project / "test_all.py").write_text(code)
    done = fork(project)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "of another" not in done.stdout
    assert "FAILED test_all.py::test_honest" in done.stdout and "INTERNALERROR" not in done.stdout
    for name in lies:
        assert f"FAILED test_all.py::test_{name}" in done.stdout, done.stdout
