"""What must be the same on every platform that forks programs.  A module that imports these tests has the platform's
name as the fixture *host*."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_sentry import ProgramError, ProgramTimeout, SentrySandbox, Template, Until
from pyvmm_sentry.forks import PREPARED
from tests.kata.oci_runtime import eventually
from tests.sentry.test_programs import BUSYBOX
from tools.where import ROOT
from vmm import ConfigError

PATIENCE = 60.0
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
COMMAND = ["/bin/sh", "-c", SERVER]
ENVIRONMENT = {"PATH": "/bin"}


def make_root(place: Path) -> Path:
    """A directory with busybox."""
    for name in ("bin", "dev", "proc", "tmp"):
        (place / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, place / "bin" / "busybox")
    for applet in ("sh", "head", "base64", "date", "cat", "echo", "sleep", "nc"):
        (place / "bin" / applet).symlink_to("busybox")
    return place


Make = Callable[..., SentrySandbox]
"""Makes a sandbox that runs a command."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("forks") / "root")


@pytest.fixture(scope="module")
def sandbox(root: Path, host: str) -> Make:
    def make(command: list[str] = COMMAND) -> SentrySandbox:
        return SentrySandbox(root, command, platform=host, env=ENVIRONMENT, memory=64)

    return make


@pytest.fixture(scope="module")
def template(sandbox: Make) -> Iterator[Template]:
    with sandbox().run(PATIENCE, until="ready").freeze() as made:
        yield made


def held() -> tuple[int, int, str]:
    """Open files and threads of this process, and its children."""
    children = "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), children


def settled() -> tuple[int, int, str]:
    """The same, when nothing ends any more."""
    now, before = held(), None
    while now != before:
        time.sleep(0.1)
        now, before = held(), now
    return now


def is_no_more(now: tuple[int, int, str], before: tuple[int, int, str]) -> bool:
    """What :func:`held` returns. A busy host can end something of an earlier test after it has settled."""
    return now[0] <= before[0] and now[1] <= before[1] and set(now[2].split()) <= set(before[2].split())


def test_each_child_continues_from_the_point(template: Template) -> None:
    with template.fork() as first, template.fork() as second:
        assert first.call({"a": [1, "\x04\x10ü"]}, PATIENCE) == [{"a": [1, "\x04\x10ü"]}, 1]
        assert first.call(None, PATIENCE) == [None, 2]
        assert second.call("x" * 3000, PATIENCE) == ["x" * 3000, 1]


def test_children_draw_different_random_numbers(template: Template) -> None:
    numbers = template.map(["random"] * 4, workers=2, timeout=PATIENCE)
    assert len(set(numbers)) == 4


def test_the_calendar_is_the_hosts(template: Template) -> None:
    with template.fork() as child:
        before = int(time.time())
        assert before <= child.call("time", PATIENCE) <= time.time() + 1


def test_a_child_that_hangs_is_ended(template: Template) -> None:
    child = template.fork()
    with pytest.raises(ProgramTimeout, match="not answered after"):
        child.call("hang", 0.2)
    with pytest.raises(ConfigError, match="closed"):
        child.call(1)


def test_a_child_that_ends_is_an_error(template: Template) -> None:
    """So is an answer that is no JSON."""
    with pytest.raises(ProgramError, match="the program exited with 3") as caught:
        template.map([1, "die", 2], workers=1, timeout=PATIENCE)
    assert (caught.value.status, caught.value.stderr) == (3, b"dying\n")
    with pytest.raises(ProgramError, match="the program answered b'no JSON'"):
        template.map(["babble"], timeout=PATIENCE)


def test_a_child_that_was_stopped_is_a_template(template: Template) -> None:
    with template.fork() as child:
        assert child.call("first", PATIENCE) == ["first", 1]
        deeper = child.freeze(prepared=0)
        with pytest.raises(ConfigError, match="stopped by freeze"):
            child.call(1)
        assert deeper.map(["a", "b"], workers=1, timeout=PATIENCE) == [["a", 2], ["b", 2]]
        with deeper.fork() as grandchild:
            assert grandchild.call("c", PATIENCE) == ["c", 2]
            assert grandchild.freeze(prepared=0).map(["d"], timeout=PATIENCE) == [["d", 3]]
    with pytest.raises(ConfigError, match="the template was closed"):
        deeper.fork()
    with template.fork() as child:  # at once
        assert child.freeze(prepared=0).map(["e"], timeout=PATIENCE) == [["e", 1]]


POINTS: dict[int | Until, str] = {8080: "nc -l -p 8080 & exec cat", Until.CALL: "echo x >/dev/pyvmm; exec cat"}
"""Commands of a shell that reach a point, and answer requests with the same."""


def test_points(sandbox: Make) -> None:
    """A sandbox runs until it listens on a port, or makes a call."""
    for until, command in POINTS.items():
        with sandbox(["/bin/sh", "-c", f"echo before; {command}"]) as base:
            base.run(PATIENCE, until=until)
            assert base.freeze(prepared=0).map([1, "two"], timeout=PATIENCE) == [1, "two"]
    with sandbox(["/bin/sh", "-c", "exit 3"]) as base:
        with pytest.raises(ProgramError, match="has not listened on port 80: the program exited with 3"):
            base.run(PATIENCE, until=80)
    with sandbox(["/bin/sh", "-c", "read -r line"]) as base:
        with pytest.raises(ProgramTimeout, match="has not written to /dev/pyvmm"):
            base.run(0.1, until=Until.CALL)
    for wrong in (0, 65536, True):
        with sandbox(["/bin/sh"]) as base, pytest.raises(ConfigError, match="not a port"):
            base.run(until=wrong)


def post(url: str, body: bytes) -> tuple[int, Any]:
    """A request to `functions.py`: status and answer."""
    try:
        with urllib.request.urlopen(url, body, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_server_answers_each_request_in_a_child(root: Path) -> None:
    command = [sys.executable, f"{ROOT}/examples/sentry/functions.py", "--port", "0", "--timeout", "5"]
    with subprocess.Popen([*command, f"{root}", *COMMAND], stdout=subprocess.PIPE, text=True) as server:
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


def check_nothing_left(template: Template, sandbox: Make, count: int) -> None:
    """Of so many children of another template."""
    eventually(lambda: template.prepared == PREPARED, "no children wait")
    before = settled()
    with sandbox().run(PATIENCE, until="ready").freeze() as made:
        answers = made.map(range(count), workers=2, timeout=PATIENCE)
        assert answers == [[number, 1] for number in range(count)]
    eventually(lambda: is_no_more(held(), before), f"{held()}: more than {before}")
    with pytest.raises(ConfigError, match="closed"):
        made.fork()


def test_a_program_that_ends_before_the_point_is_an_error(sandbox: Make) -> None:
    base = sandbox(["sh", "-c", "echo no >&2; exit 4"])
    with pytest.raises(ProgramError, match="has not written 'ready': the program exited with 4") as caught:
        base.run(PATIENCE, until="ready")
    assert caught.value.stderr == b"no\n"
