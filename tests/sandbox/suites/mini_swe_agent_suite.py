"""mini-swe-agent's own agent in our sandbox, with its model that replays answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments import get_environment
from minisweagent.exceptions import Submitted
from minisweagent.models.test_models import DeterministicModel

from tests.sandbox.fake_machines import fake_machines, options, prepare


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Any]:
    """As the agent makes one of its configuration."""
    fake_machines()
    prepare(tmp_path)
    made = get_environment(
        {
            "environment_class": "pyvmm_sandbox.integrations.mini_swe_agent.PyvmmEnvironment",
            "image": f"{tmp_path}/rootfs",
            "cwd": str(tmp_path),
            "env": {"A": "a"},
            "timeout": 20,
            "interpreter": ["bash", "-c"],  # not what this host's user has in its profile
            "options": options(tmp_path),
        }
    )
    yield made
    made.cleanup()
    assert not list((tmp_path / "state").iterdir())


def test_commands(environment: Any, tmp_path: Path) -> None:
    """Values, limits, and the end of a task."""
    ran = environment.execute({"command": "echo out; echo err >&2; echo $A; pwd; exit 3"})
    assert ran == {"output": f"out\nerr\na\n{tmp_path}\n", "returncode": 3, "exception_info": ""}
    assert environment.execute({"command": "pwd"}, cwd="/usr")["output"] == "/usr\n"
    late = environment.execute({"command": "echo begun; sleep 60"}, timeout=1)
    assert late["output"] == "begun\n" and late["returncode"] == -1 and "1 s" in late["exception_info"]
    with pytest.raises(Submitted) as caught:
        environment.execute({"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo the answer"})
    assert caught.value.messages[0]["extra"]["submission"] == "the answer\n"
    assert environment.execute({"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; false"})["returncode"] == 1


def test_an_agent_solves_a_task(environment: Any, tmp_path: Path) -> None:
    """Each answer of its model is a command."""
    commands = [
        f"echo 6 > {tmp_path}/number",
        "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo $((7 * $(cat number)))",
    ]
    answers = [
        {"role": "assistant", "content": "", "extra": {"actions": [{"command": each}], "cost": 0}} for each in commands
    ]
    agent = DefaultAgent(
        DeterministicModel(outputs=answers), environment, system_template="on {{system}}", instance_template="{{task}}"
    )
    assert agent.run("multiply") == {"exit_status": "Submitted", "submission": "42\n"}
    assert agent.messages[0]["content"] == "on Linux"


def test_records(environment: Any, tmp_path: Path) -> None:
    """What prompts and records have."""
    names = environment.get_template_vars(extra=1)
    assert names["system"] == "Linux" and names["machine"] == "x86_64" and names["extra"] == 1
    assert names["cwd"] == str(tmp_path)
    kind = environment.serialize()["info"]["config"]["environment_type"]
    assert kind == "pyvmm_sandbox.integrations.mini_swe_agent.PyvmmEnvironment"
