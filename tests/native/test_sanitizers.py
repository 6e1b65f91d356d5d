"""Runs the C tests of the ring, the worker, the disk and the share under ASan, UBSan and TSan, and every input that a
fuzzer ever found interesting."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.native.fuzz import TARGETS, corpus, replay
from tests.native.programs import compiler, names_of_tests, program

SKIPPED = 77
# a guest that writes its ring while the device reads it, a test that changes what a worker runs: nothing for TSan
RACY_BY_DESIGN = {"descriptors_change_while_read", "stop_while_completions_are_taken"}
MEMORY = Path("/dev/shm")
PATIENCE = 240
"""Seconds: an fsync of a busy disk has taken two minutes."""

pytestmark = pytest.mark.skipif(compiler("asan") is None, reason="no C compiler")


def run(name: str, sanitizer: str, test: str, engine: str, directory: Path) -> None:
    """Run one test of one program; its own words are the failure's."""
    command = [str(program(name, sanitizer)), test]
    if sanitizer == "tsan" and (setarch := shutil.which("setarch")):
        # its shadow memory does not go with every layout that the kernel draws
        command = [setarch, "-R", *command]
    env = os.environ | {
        "ENGINE": engine,
        "DIR": str(directory),
        "TSAN_OPTIONS": "halt_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, f"{test} ({engine} engine, in {directory}):\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("test", names_of_tests("test_ring"))
def test_ring(test: str, tmp_path: Path) -> None:
    run("test_ring", "asan", test, "none", tmp_path)


@pytest.mark.parametrize("test", names_of_tests("test_packed"))
def test_packed(test: str, tmp_path: Path) -> None:
    run("test_packed", "asan", test, "none", tmp_path)


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("engine", ["sync", "uring", "auto"])
@pytest.mark.parametrize("test", names_of_tests("test_blk"))
def test_blk(test: str, engine: str, where: str, tmp_path: Path) -> None:
    run("test_blk", "asan", test, engine, MEMORY if where == "memory" else tmp_path)


@pytest.mark.parametrize("engine", ["sync", "uring", "auto"])
@pytest.mark.parametrize("test", names_of_tests("test_race"))
def test_race(test: str, engine: str, tmp_path: Path) -> None:
    run("test_race", "asan", test, engine, tmp_path)


# test_race has both engines
@pytest.mark.parametrize("engine", ["sync", pytest.param("uring", marks=pytest.mark.long)])
@pytest.mark.parametrize("test", [name for name in names_of_tests("test_race") if name not in RACY_BY_DESIGN])
def test_data_races(test: str, engine: str, tmp_path: Path) -> None:
    run("test_race", "tsan", test, engine, tmp_path)


@pytest.mark.parametrize("sanitizer", ["asan", "tsan"])
@pytest.mark.parametrize("test", names_of_tests("test_fs"))
def test_fs(test: str, sanitizer: str, tmp_path: Path) -> None:
    run("test_fs", sanitizer, test, "none", tmp_path)


@pytest.mark.parametrize("test", names_of_tests("test_fsd"))
def test_fsd(test: str, tmp_path: Path) -> None:
    run("test_fsd", "asan", test, "none", tmp_path)


@pytest.mark.parametrize("sanitizer", ["asan", "tsan"])
@pytest.mark.parametrize("test", names_of_tests("test_vsock"))
def test_vsock(test: str, sanitizer: str, tmp_path: Path) -> None:
    run("test_vsock", sanitizer, test, "none", tmp_path)


@pytest.mark.parametrize("sanitizer", ["asan", "tsan"])
@pytest.mark.parametrize("test", names_of_tests("test_net"))
def test_net(test: str, sanitizer: str, tmp_path: Path) -> None:
    run("test_net", sanitizer, test, "none", tmp_path)


@pytest.mark.parametrize("sanitizer", ["asan", "tsan"])
@pytest.mark.parametrize("test", names_of_tests("test_small"))
def test_small(test: str, sanitizer: str, tmp_path: Path) -> None:
    run("test_small", sanitizer, test, "none", tmp_path)


@pytest.mark.parametrize("test", names_of_tests("test_faults"))
def test_faults(test: str, tmp_path: Path) -> None:
    run("test_faults", "asan", test, "none", tmp_path)


@pytest.mark.skipif(compiler("fuzzer") is None, reason="libFuzzer needs clang")
@pytest.mark.parametrize("target", TARGETS)
def test_kept_corpus(target: str) -> None:
    assert len(list(corpus(target).iterdir())) > 20
    done = replay(target, corpus(target))
    assert done.returncode == 0, done.stderr
