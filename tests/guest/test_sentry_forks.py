"""A program on the Sentry that is stopped, and children that continue from there, each in a machine of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_sentry import ProgramError, ProgramTimeout, SentrySandbox, Template, boot, forks
from tests.sentry.test_programs import BUSYBOX
from tools.where import ROOT
from vmm import ConfigError, CpuConfig
from vmm.faststart.record import replace
from vmm.kvm.probe import host_cpu

pytestmark = pytest.mark.guest
PATIENCE = 60.0
RDRAND = 1 << 30

SERVER = r"""
count=0
echo ready
while read -r line; do
  count=$((count + 1))
  case $line in
    '"random"') echo "\"$(head -c 16 /dev/urandom | base64)\"" ;;
    '"time"') date +%s ;;
    '"hang"') while :; do :; done ;;
    '"die"') echo dying >&2; exit 3 ;;
    '"babble"') echo no JSON ;;
    *) echo "[$line, $count]" ;;
  esac
done
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with busybox."""
    place = tmp_path_factory.mktemp("forks") / "root"
    for name in ("bin", "dev", "proc", "tmp"):
        (place / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, place / "bin" / "busybox")
    for applet in ("sh", "head", "base64", "date", "cat", "echo"):
        (place / "bin" / applet).symlink_to("busybox")
    return place


@pytest.fixture(scope="module")
def template(root: Path) -> Iterator[Template]:
    base = SentrySandbox(root, ["/bin/sh", "-c", SERVER], platform="kvm", env={"PATH": "/bin"}, memory=64)
    with base.run(PATIENCE, until="ready").freeze() as made:
        yield made


def test_a_program_runs_in_a_machine(root: Path) -> None:
    script = "cat; echo out; echo error >&2; exit 7"
    with SentrySandbox(root, ["sh", "-c", script], platform="kvm", env={"PATH": "/bin"}, memory=64) as sandbox:
        assert sandbox.run(PATIENCE) == (7, b"out\n", b"error\n")


def test_each_child_continues_from_the_point(template: Template) -> None:
    with template.fork() as first, template.fork() as second:
        assert first.call({"a": [1, "\x04\x10ü"]}, PATIENCE) == [{"a": [1, "\x04\x10ü"]}, 1]
        assert first.call(None, PATIENCE) == [None, 2]
        assert second.call("x" * 3000, PATIENCE) == ["x" * 3000, 1]


def test_children_draw_different_random_numbers(template: Template) -> None:
    numbers = template.map(["random"] * 4, workers=2, timeout=PATIENCE)
    assert len(set(numbers)) == 4


def test_children_of_a_cpu_without_random_numbers_draw_different_ones(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then they are those of virtio-rng, some of which wait in the core."""
    cpu, config_of = host_cpu(), boot.config_of
    leaves = [replace(leaf, ecx=leaf.ecx & ~RDRAND) if leaf.function == 1 else leaf for leaf in cpu.leaves]
    without = CpuConfig(tuple(leaves), cpu.arch_capabilities)
    monkeypatch.setattr(boot, "config_of", lambda *arguments: replace(config_of(*arguments), cpu=without))
    base = SentrySandbox(root, ["/bin/sh", "-c", SERVER], platform="kvm", env={"PATH": "/bin"}, memory=64)
    with base.run(PATIENCE, until="ready").freeze(prepared=0) as template:
        assert len({*template.map(["random"] * 3, workers=1, timeout=PATIENCE)}) == 3


def test_a_childs_calendar_is_the_hosts(template: Template) -> None:
    with template.fork() as child:
        before = int(time.time())
        assert before <= child.call("time", PATIENCE) <= time.time() + 1


def test_a_child_that_hangs_is_ended_at_its_timeout(template: Template) -> None:
    child = template.fork()
    with pytest.raises(ProgramTimeout, match="not answered after"):
        child.call("hang", 0.2)
    with pytest.raises(ConfigError, match="closed"):
        child.call(1)


def test_a_child_that_ends_is_an_error(template: Template) -> None:
    with pytest.raises(ProgramError, match="the program exited with 3") as caught:
        template.map([1, "die", 2], workers=1, timeout=PATIENCE)
    assert (caught.value.status, caught.value.stderr) == (3, b"dying\n")


def test_an_answer_that_is_no_json_is_an_error(template: Template) -> None:
    with pytest.raises(ProgramError, match="the program answered b'no JSON'"):
        template.map(["babble"], timeout=PATIENCE)


def held() -> tuple[int, int, str]:
    """Open files and threads of this process, and its children."""
    children = "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), children


def post(url: str, body: bytes) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, body, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_server_answers_each_request_in_a_child(root: Path) -> None:
    command = [sys.executable, f"{ROOT}/examples/sentry/functions.py", "--port", "0", "--timeout", "5"]
    with subprocess.Popen([*command, f"{root}", "/bin/sh", "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            url = server.stdout.readline().strip()
            assert post(url, b'{"a": 1}') == (200, [{"a": 1}, 1])
            assert post(url, b"2") == (200, [2, 1])
            assert post(url, b"no JSON")[0] == 400
            assert post(url, b'"die"') == (502, {"error": "the program exited with 3", "stderr": "dying\n"})
            assert post(url, b'"hang"')[0] == 504
        finally:
            server.terminate()
        assert server.wait(PATIENCE) == 130


@pytest.mark.parametrize("count", [16, pytest.param(200, marks=pytest.mark.long)])
def test_children_leave_nothing(root: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "CHILDREN", 10)
    before = held()
    base = SentrySandbox(root, ["/bin/sh", "-c", SERVER], platform="kvm", env={"PATH": "/bin"}, memory=64)
    with base.run(PATIENCE, until="ready").freeze() as template:
        answers = template.map(range(count), workers=2, timeout=PATIENCE)
        assert answers == [[number, 1] for number in range(count)]
    assert held() == before
    with pytest.raises(ConfigError, match="closed"):
        template.fork()


def test_a_program_that_ends_before_the_point_is_an_error(root: Path) -> None:
    base = SentrySandbox(root, ["sh", "-c", "echo no >&2; exit 4"], platform="kvm", env={"PATH": "/bin"}, memory=64)
    with pytest.raises(ProgramError, match="has not written 'ready': the program exited with 4") as caught:
        base.run(PATIENCE, until="ready")
    assert caught.value.stderr == b"no\n"
