"""Agents of google-adk in our sandbox, with its own runner and a model that is a script."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.code_executors.code_execution_utils import CodeExecutionInput, File
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import InMemoryRunner
from google.adk.tools.environment import EnvironmentToolset
from google.genai import types

from pyvmm_sandbox.errors import SandboxGone, UsageError
from pyvmm_sandbox.integrations.google_adk import PyvmmCodeExecutor, PyvmmEnvironment
from tests.sandbox.fake_machines import fake_machines, options, prepare


@pytest.fixture
async def environment(tmp_path: Path) -> AsyncIterator[Any]:
    """One that has not started. Nothing of its sandbox is left."""
    fake_machines()
    prepare(tmp_path)
    made = PyvmmEnvironment(f"{tmp_path}/rootfs", working_dir=f"{tmp_path}/work", env={"A": "a"}, **options(tmp_path))
    yield made
    await made.close()
    assert not (tmp_path / "state").exists() or not list((tmp_path / "state").iterdir())


async def test_commands_and_files(environment: Any, tmp_path: Path) -> None:
    """Values and limits."""
    with pytest.raises(SandboxGone):
        await environment.execute("true")
    await environment.initialize()
    await environment.initialize()
    assert environment.is_initialized
    ran = await environment.execute("echo $A; pwd; echo err >&2; exit 3")
    assert (ran.stdout, ran.stderr, ran.exit_code, ran.timed_out) == (f"a\n{tmp_path}/work\n", "err\n", 3, False)
    late = await environment.execute("echo begun; sleep 60", timeout=1)
    assert late.timed_out and late.stdout == "begun\n" and late.exit_code
    await environment.write_file(Path("deep/a"), b"\0\xff")
    assert await environment.read_file(tmp_path / "work/deep/a") == b"\0\xff"
    with pytest.raises(FileNotFoundError):
        await environment.read_file(Path("none"))
    (copy,) = environment.sandbox.fork()
    with copy:
        assert copy.run("echo copy").stdout == "copy\n"
    await environment.close()
    with pytest.raises(SandboxGone):
        await environment.read_file(Path("deep/a"))
    with pytest.raises(UsageError, match="absolute"):
        PyvmmEnvironment("image", working_dir="work")


class Script(BaseLlm):  # type: ignore[misc]  # without the framework
    """Says one thing after the other; at last, what it was told last."""

    turns: list[types.Part]

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """See the base class."""
        last = llm_request.contents[-1].parts[-1]
        told = last.text or str(last.function_response and last.function_response.response)
        part = self.turns.pop(0) if self.turns else types.Part(text=f"It is {told}")
        yield LlmResponse(content=types.Content(role="model", parts=[part]))


async def ask(agent: LlmAgent, question: str) -> str:
    """The last answer of an agent."""
    runner = InMemoryRunner(agent=agent, app_name="check")
    session = await runner.session_service.create_session(app_name="check", user_id="one")
    message = types.Content(role="user", parts=[types.Part(text=question)])
    said = ""
    async for event in runner.run_async(user_id="one", session_id=session.id, new_message=message):
        for part in event.content.parts if event.content else []:
            said = part.text or said
    await runner.close()
    return said


def call(name: str, **arguments: str) -> types.Part:
    """What a model says to use a tool."""
    return types.Part(function_call=types.FunctionCall(name=name, args=arguments))


async def test_an_agent_uses_its_environment(environment: Any, tmp_path: Path) -> None:
    """By the framework's own tools."""
    turns = [
        call("WriteFile", path="number", content="6"),
        call("Execute", command="echo $((7 * $(cat number)))"),
    ]
    tools = [EnvironmentToolset(environment=environment)]
    agent = LlmAgent(name="one", model=Script(model="script", turns=turns), tools=tools)
    assert "42" in await ask(agent, "multiply")
    assert (tmp_path / "work" / "number").read_text() == "6"


async def test_an_agent_runs_code(tmp_path: Path) -> None:
    """Programs, one after the other in the same sandbox."""
    fake_machines()
    prepare(tmp_path)
    executor = PyvmmCodeExecutor(
        image=f"{tmp_path}/rootfs", working_dir=f"{tmp_path}/work", options=options(tmp_path), timeout_seconds=20
    )
    turns = [
        types.Part(text="```python\nopen('number', 'w').write('6')\n```"),
        types.Part(text="```python\nprint(7 * int(open('number').read()))\n```"),
    ]
    agent = LlmAgent(name="one", model=Script(model="script", turns=turns), code_executor=executor)
    assert "42" in await ask(agent, "multiply")
    program = CodeExecutionInput(code="open('b', 'w').write(open('a').read() * 2)", input_files=[File("a", "xy")])
    result = executor.execute_code(None, program)
    assert [(each.name, each.content) for each in result.output_files] == [("b", b"xyxy")]
    late = executor.model_copy(update={"timeout_seconds": 1}).execute_code(
        None, CodeExecutionInput(code="print('begun', flush=True)\nwhile True: pass")
    )
    assert late.stdout == "begun\n" and "did not end in 1 s" in late.stderr
    executor.close()
    assert not list((tmp_path / "state").iterdir())
