"""An agent of strands with our sandbox, its own tools for sandboxes and a model that is a script."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from strands import Agent
from strands.models import Model
from strands.sandbox import StreamChunk
from strands.sandbox.errors import SandboxPathNotFoundError, SandboxTimeoutError

from pyvmm_sandbox import Sandbox
from pyvmm_sandbox.integrations.strands import PyvmmSandbox
from tests.sandbox.fake_machines import fake_machines, options, prepare


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[PyvmmSandbox]:
    """In a machine of its own, which nothing is left of."""
    fake_machines()
    prepare(tmp_path)
    with Sandbox(f"{tmp_path}/rootfs", **options(tmp_path)) as box:
        box.files.mkdir(f"{tmp_path}/work")
        yield PyvmmSandbox(box, working_dir=f"{tmp_path}/work")
    assert not list((tmp_path / "state").iterdir())


async def test_commands(sandbox: Any, tmp_path: Path) -> None:
    """Values, output as it comes, and limits."""
    ran = await sandbox.execute("echo $A; pwd; echo err >&2; exit 3", env={"A": "a"})
    assert (ran.stdout, ran.stderr, ran.exit_code) == (f"a\n{tmp_path}/work\n", "err\n", 3)
    assert (await sandbox.execute("pwd", cwd="/usr")).stdout == "/usr\n"
    with pytest.raises(SandboxTimeoutError) as caught:
        await sandbox.execute("echo begun; sleep 60", timeout=1)
    assert caught.value.stdout == "begun\n"
    with pytest.raises(ValueError, match="A;B"):
        await sandbox.execute("true", env={"A;B": ""})
    stream = sandbox.execute_streaming("echo first; echo $$ > pid; exec tail -f /dev/null")
    assert await anext(stream) == StreamChunk("first\n", "stdout")
    await stream.aclose()  # which kills it
    number = (await sandbox.read_text("pid")).strip()
    assert not Path("/proc", number).exists()


async def test_code(sandbox: Any) -> None:
    """Programs in any language that the image has."""
    ran = await sandbox.execute_code("print(6 * 7)", "python3")
    assert (ran.stdout, ran.exit_code) == ("42\n", 0)
    ran = await sandbox.execute_code("echo '$A'; exit 5", "sh")
    assert (ran.stdout, ran.exit_code) == ("$A\n", 5)
    with pytest.raises(ValueError, match="interpreter"):
        await sandbox.execute_code("", "sh -c")


async def test_files(sandbox: Any, tmp_path: Path) -> None:
    """Those of the sandbox; errors are Python's own."""
    await sandbox.write_file("deep/a", b"\0\xff")
    assert await sandbox.read_file(f"{tmp_path}/work/deep/a") == b"\0\xff"
    assert [(each.name, each.is_dir) for each in await sandbox.list_files(".")] == [("deep", True)]
    assert [(each.name, each.is_dir, each.size) for each in await sandbox.list_files("deep")] == [("a", False, 2)]
    await sandbox.remove_file("deep/a")
    for method in (sandbox.read_file, sandbox.remove_file):
        with pytest.raises(FileNotFoundError):
            await method("deep/a")
    with pytest.raises(SandboxPathNotFoundError):
        await sandbox.list_files("none")


class Script(Model):  # type: ignore[misc]  # without the framework
    """Uses tools, and then says what the last one returned."""

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        self.calls = list(calls)

    def update_config(self, **_: Any) -> None:
        """It has none."""

    def get_config(self) -> dict[str, Any]:
        """Likewise."""
        return {}

    def structured_output(self, *_: Any, **__: Any) -> Any:
        """See the base class."""
        raise NotImplementedError

    async def stream(self, messages: Any, *_: Any, **__: Any) -> AsyncIterator[dict[str, Any]]:
        """See the base class."""
        yield {"messageStart": {"role": "assistant"}}
        if self.calls:
            name, arguments = self.calls.pop(0)
            yield {"contentBlockStart": {"start": {"toolUse": {"name": name, "toolUseId": str(len(self.calls))}}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(arguments)}}}}
            reason = "tool_use"
        else:
            yield {"contentBlockStart": {"start": {}}}
            yield {"contentBlockDelta": {"delta": {"text": json.dumps(messages[-1]["content"])}}}
            reason = "end_turn"
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": reason}}


def test_an_agent_uses_its_tools(sandbox: Any, tmp_path: Path) -> None:
    """Those that come with the sandbox."""
    edit = {"command": "create", "path": f"{tmp_path}/work/number", "file_text": "6"}
    model = Script(("sandbox_file_editor", edit), ("sandbox_shell", {"command": "echo $((7 * $(cat number)))"}))
    result = Agent(model=model, sandbox=sandbox, callback_handler=None)("multiply")
    assert "42" in str(result)
    assert (tmp_path / "work" / "number").read_text() == "6"
