"""The table of machine calls: each kind of machine has them, and the control socket and the documents follow it."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tools import machine_calls
from vmm import AsyncMachine, ConfigError, IsolatedMachine, Machine, create_machine
from vmm.cli.commands import COMMANDS
from vmm.control.requests import REQUESTS
from vmm.control.server import ControlServer
from vmm.faststart.record import replace
from vmm.lifecycle import ALLOWED
from vmm.machine.interface import CALLER, CALLS, INSIDE, AnyMachine, AsyncCalls, MachineInterface
from vmm.processes.jailed import Jailed

ROOT = Path(__file__).parents[2]
needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
ALSO_ASYNC = {"start", "stop", "fork", "wait", "close"}
"""Calls that AsyncMachine has in a form of its own."""


def parameters(call: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(call).parameters if name != "self"]


@pytest.mark.parametrize("name", CALLS)
def test_a_machine_does_each_call_itself(name: str) -> None:
    """In this process nothing is forwarded."""
    assert getattr(Machine, name) is not getattr(MachineInterface, name)
    wanted = list(CALLS[name].names)
    assert [each for each in parameters(getattr(Machine, name)) if each in wanted] == wanted


@pytest.mark.parametrize("name", [name for name, row in CALLS.items() if row.jailed not in (INSIDE, CALLER)])
def test_a_jailed_machine_does_what_needs_files(name: str) -> None:
    assert getattr(IsolatedMachine, name) is not getattr(MachineInterface, name)


@pytest.mark.parametrize("name", CALLS)
def test_the_same_is_there_for_asyncio(name: str) -> None:
    if name not in ALSO_ASYNC:
        assert name in vars(AsyncCalls), "add a line to AsyncCalls"
    assert callable(getattr(AsyncMachine, name))


def test_the_states_of_each_call_are_known() -> None:
    assert set(CALLS) <= set(ALLOWED)
    assert all(row.states == ALLOWED[name] for name, row in CALLS.items())
    assert issubclass(Machine, AnyMachine) and issubclass(IsolatedMachine, AnyMachine)
    assert issubclass(Jailed, MachineInterface)


def test_arguments_are_those_of_the_signature() -> None:
    (count,) = CALLS["resize_cpus"].arguments
    assert (count.name, count.kind, count.default, count.optional, count.unit) == ("count", "int", None, False, "vCPUs")
    path, base, stop = CALLS["snapshot"].arguments
    assert (path.kind, path.default, path.optional) == ("str", None, False)
    assert (base.kind, base.default, base.optional) == ("str", None, True)
    assert (stop.kind, stop.default, stop.optional) == ("bool", False, False)
    assert CALLS["stop"].arguments == [], "the socket does not say how the run ended"


@pytest.mark.parametrize("path", machine_calls.with_tables())
def test_the_pages_have_the_tables(path: str) -> None:
    assert (ROOT / path).read_text() == machine_calls.with_tables()[path], "python -m tools.machine_calls --write"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_module(name: str) -> None:
    """And no command runs another one's."""
    done = subprocess.run(
        [sys.executable, "-c", "from vmm.cli.main import main; main()", name, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0 and f"pyvmm {name}" in done.stdout.partition("\n\n")[0]


def control(*words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from vmm.cli.main import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, "control", *words], capture_output=True, text=True, cwd=ROOT)


@needs_kvm
def test_any_request_can_be_sent_by_the_command(tmp_path: Path) -> None:
    config = replace(tiny.config(tiny.make(tmp_path, tiny.SPIN)), max_cpus=2)
    path = str(tmp_path / "c")
    with Machine(config) as machine, ControlServer(machine, path):
        machine.start()
        listed = control(path)
        assert all(f"\n{name}" in f"\n{listed.stdout}" for name in REQUESTS)
        assert json.loads(control(path, "status").stdout)["state"] == "running"
        assert control(path, "pause").stdout == "{}\n" and machine.state == "paused"
        assert control(path, "resume").returncode == 0 and machine.state == "running"
        assert control(path, "resize-cpus", "count=2").returncode == 0 and machine.cpus == 2
        for words, message in (
            (("stpo",), "no request 'stpo'"),
            (("pause", "now=1"), "no argument 'now=1'"),
            (("resize-cpus", "count=two"), "count is no number"),
            (("snapshot", f"path={tmp_path}/s", "stop=maybe"), "neither true nor false"),
            (("resize-cpus",), "count is missing"),
            (("resume",), "cannot resume a machine that is running"),
        ):
            done = control(path, *words)
            assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
        assert machine.state == "running"


@needs_kvm
@pytest.mark.parametrize("isolation", ["thread", "process", "fork"])
def test_one_function_makes_machines_of_each_isolation(tmp_path: Path, isolation: str) -> None:
    config = replace(tiny.config(tiny.make(tmp_path, tiny.SPIN)), isolation=isolation)
    with create_machine(config) as machine:
        machine.start()
        machine.pause()
        assert machine.state == "paused" and machine.cpus == 1
        machine.resume()
        if isolation == "thread":
            machine.prepare_forks(0)
        else:
            with pytest.raises(ConfigError, match="prepare_forks is not available"):
                machine.prepare_forks(1)
            with pytest.raises(ConfigError, match="runs in this process") as caught:
                Machine(config)
            assert "create_machine" in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((1, 2), {}), ((), {}), ((1,), {"count": 1}), ((), {"counts": 1}), ((1,), {"more": 1})],
)
def test_a_call_that_is_forwarded_takes_its_own_arguments_alone(arguments: Any, named: Any) -> None:
    row = CALLS["resize_cpus"]
    assert row.bind((1,), {}) == row.bind((), {"count": 1}) == {"count": 1}
    assert CALLS["snapshot"].bind(("a",), {"stop": True}) == {"path": "a", "stop": True}
    with pytest.raises(TypeError, match="resize_cpus"):
        row.bind(arguments, named)
