"""Plays a unit of a suite in a place: natively, or on a platform of the Sentry."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.sentry.conformance import inside
from tools.where import ROOT

NATIVE = "native"
PYTHON = "/usr/bin/python3"
NOBODY = "65534"
MEMORY = "2048"
ISOLATED = ("unshare", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
"""Natively, tests cannot reach processes and queues of others."""
SANDBOX = (sys.executable, "-m", "pyvmm_sentry", "do", "--memory", MEMORY, "--root", "/")
PATIENCE = 60.0
"""Seconds without a line after a test's own limit: then the core hangs."""
SLICE = 0.2
ROUNDS = 20
"""Tests of a unit that may end the process that runs them."""
START = """
mkdir -p "$0/work" && chown -R {user}:{user} "$0" && cd "$0/work" || exit
[ {user} != 0 ] || (echo 100 > /proc/sys/fs/mqueue/msg_max) 2> /dev/null # natively, of its own queues
exec setpriv --reuid {user} --regid {user} --clear-groups "$@"
"""


class Outcome(NamedTuple):
    """What a test gave: `pass`, `skip`, `fail`, `hang`, `crash`, or the status of a program; and why."""

    word: str
    detail: str


class Unit(NamedTuple):
    """Tests that are played together.

    :param request: of inside.py, without what changes from run to run
    :param privileged: run as the superuser, not as nobody
    """

    name: str
    request: Mapping[str, object]
    seconds: float
    privileged: bool = False


def _command(place: str, folder: str, privileged: bool) -> list[str]:
    head = ISOLATED if place == NATIVE else (*SANDBOX, "--platform", place, "--")
    clean = (
        "/usr/bin/env",
        "-i",
        "PATH=/usr/bin:/bin:/usr/sbin",
        "LC_ALL=C.UTF-8",
        f"HOME={folder}",
        f"TMPDIR={folder}",
    )
    start = START.format(user="0" if privileged else NOBODY)
    return [*head, *clean, "/bin/sh", "-c", start, folder, PYTHON, "-X", "faulthandler", inside.__file__]


def _run(command: Sequence[str], request: Mapping[str, object], output: Path, patience: float) -> tuple[int, bool]:
    """Run a process until it ends, or writes nothing for too long; returns its status, and whether it was killed."""
    path = {"PYTHONPATH": f"{ROOT / 'examples' / 'sentry'}:{ROOT}"}
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=file, env={**os.environ, **path}, start_new_session=True
        )
        assert process.stdin
        with process.stdin as stdin:
            stdin.write(json.dumps(request).encode())
        size, since = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(SLICE)
            if (now := output.stat().st_size) != size:
                size, since = now, time.monotonic()
            if time.monotonic() - since > patience:
                os.killpg(process.pid, signal.SIGKILL)
                return process.wait(), True
        return process.returncode, False


def _lines(output: Path) -> Iterator[dict[str, str]]:
    for line in output.read_text(errors="replace").splitlines():
        if line.startswith(inside.MARK + "{"):
            try:
                yield json.loads(line[1:])
            except ValueError:  # its writer was cut off
                continue


def _read(output: Path) -> tuple[dict[str, Outcome], str, bool]:
    """The outcomes of tests, the test that has begun last if it has not ended, and whether all is done."""
    found: dict[str, Outcome] = {}
    begun, done = "", False
    for line in _lines(output):
        if "ended" in line:
            found[line["ended"]] = Outcome(line["outcome"], line["detail"])
        begun = line.get("begins", "")
        done = "done" in line
    return found, begun, done


def play(unit: Unit, place: str, only: Sequence[str] = ()) -> dict[str, Outcome]:
    """Play a unit, again after a test that ended the process, without those that have begun.

    :param only: names of tests; none: all
    """
    found: dict[str, Outcome] = {}
    for _ in range(ROUNDS):
        request = dict(unit.request, seconds=unit.seconds, only=list(only), skip=list(found))
        commands = unit.request.get("commands")
        if isinstance(commands, Mapping):
            request["commands"] = {k: v for k, v in commands.items() if k not in found and (not only or k in only)}
        with tempfile.TemporaryDirectory() as work:
            output = Path(work) / "output"
            folder = tempfile.mktemp(prefix="conformance-", dir="/dev/shm")
            status, silent = _run(_command(place, folder, unit.privileged), request, output, unit.seconds + PATIENCE)
            shutil.rmtree(folder, ignore_errors=True)
            new, begun, done = _read(output)
            text = output.read_text(errors="replace")[-inside.DETAIL :]
        found.update(new)
        if done:
            break
        slow = "Timeout (" in text and not silent
        word = "hang" if slow else "core hang" if silent else f"crash {status}"
        found[begun or f"{unit.name}: start"] = Outcome(word, text)
        if not begun:
            break
    return found
