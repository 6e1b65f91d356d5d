"""A sandbox agent of openai-agents in our sandbox, with its own runner and a model that is a script."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agents import Model, ModelResponse, RunConfig, Runner, Usage, set_tracing_disabled
from agents.sandbox import Manifest, SandboxAgent, SandboxRunConfig
from agents.sandbox.entries import File
from agents.sandbox.errors import (
    ExecTimeoutError,
    ExposedPortUnavailableError,
    PtySessionNotFoundError,
    WorkspaceReadNotFoundError,
)
from agents.sandbox.snapshot import LocalSnapshot
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from pyvmm_sandbox.integrations.openai_agents import PyvmmSandboxClient, PyvmmSandboxClientOptions
from tests.kata import fake_relay
from tests.sandbox.fake_machines import fake_machines, options, prepare

UPPER_SERVER = Path(__file__).parents[1] / "upper_server.py"
set_tracing_disabled(True)  # it sends what agents do to its vendor


@pytest.fixture
def wanted(tmp_path: Path) -> PyvmmSandboxClientOptions:
    """What a client makes sandboxes of. None of them is left."""
    fake_machines()
    fake_relay.install()
    prepare(tmp_path)
    return PyvmmSandboxClientOptions(image=f"{tmp_path}/rootfs", env={"FROM": "options"}, options=options(tmp_path))


@pytest.fixture
async def session(wanted: PyvmmSandboxClientOptions, tmp_path: Path) -> AsyncIterator[Any]:
    """One that has started."""
    client = PyvmmSandboxClient()
    manifest = Manifest(root=f"{tmp_path}/work", entries={"notes/a.txt": File(content=b"from the manifest")})
    made = await client.create(manifest=manifest, options=wanted)
    async with made:
        yield made
    await client.delete(made)
    assert not list((tmp_path / "state").iterdir())


async def test_commands(session: Any, tmp_path: Path) -> None:
    """Values and limits."""
    ran = await session.exec("echo $FROM; pwd; echo err >&2; exit 3")
    assert (ran.stdout, ran.stderr, ran.exit_code) == (f"options\n{tmp_path}/work\n".encode(), b"err\n", 3)
    assert (await session.exec("id", "-u", shell=False, user="nobody")).stdout == b"65534\n"
    with pytest.raises(ExecTimeoutError):
        await session.exec("sleep 60", timeout=1)
    assert await session.running()


async def test_terminals(session: Any) -> None:
    """Commands that go on, and what an agent types."""
    begun = await session.pty_exec_start("read line; echo got $line; tty; read line", tty=True, yield_time_s=0.25)
    assert begun.process_id is not None and begun.exit_code is None
    told = await session.pty_write_stdin(session_id=begun.process_id, chars="typed\n", yield_time_s=20)
    while b"/dev/pts/" not in told.output:
        more = await session.pty_write_stdin(session_id=begun.process_id, chars="", yield_time_s=20)
        told = replace(more, output=told.output + more.output)
    assert b"got typed" in told.output
    ended = await session.pty_write_stdin(session_id=begun.process_id, chars="\x03", yield_time_s=20)
    assert (ended.process_id, ended.exit_code) == (None, 130)
    with pytest.raises(PtySessionNotFoundError):
        await session.pty_write_stdin(session_id=begun.process_id, chars="")
    once = await session.pty_exec_start("echo out; cat; exit 3", yield_time_s=20)
    assert (once.process_id, once.exit_code, once.output) == (None, 3, b"out\n")
    late = await session.pty_exec_start("exec tail -f /dev/null", timeout=1, yield_time_s=20)
    assert late.exit_code == 137
    left = await session.pty_exec_start("echo $$ > pid; exec tail -f /dev/null", yield_time_s=0.25)
    while not (number := (await session.exec("cat pid")).stdout.strip()):
        assert left.exit_code is None
    with pytest.raises(RuntimeError, match="no terminal"):
        await session.pty_write_stdin(session_id=left.process_id, chars="typed")
    await session.pty_terminate_all()
    assert not Path("/proc", number.decode()).exists()


async def test_files(session: Any, tmp_path: Path) -> None:
    """Those of the manifest, and those that are written; none outside of the workspace."""
    assert (await session.read(Path("notes/a.txt"))).read() == b"from the manifest"
    await session.write(Path("deep/b.bin"), io.BytesIO(b"\0\xff" * 1000))
    assert (await session.read(Path("deep/b.bin"))).read() == b"\0\xff" * 1000
    assert await session.read_bounded(Path("deep/b.bin"), max_bytes=3) == b"\0\xff\0"
    assert {Path(each.path).name for each in await session.ls(Path("."))} >= {"notes", "deep"}
    with pytest.raises(WorkspaceReadNotFoundError):
        await session.read(Path("none"))
    (tmp_path / "work" / "out").symlink_to("/etc/passwd")
    with pytest.raises(Exception, match="escape"):
        await session.read(Path("out"))


async def test_archives(session: Any, tmp_path: Path) -> None:
    """A workspace as a tar archive, and back."""
    await session.exec("printf kept > kept; ln -s kept link")
    archive = await session.persist_workspace()
    with tarfile.open(fileobj=archive) as tar:
        assert {"./kept", "./link", "./notes/a.txt"} <= set(tar.getnames())
    archive.seek(0)
    await session.exec("rm -r kept link notes")
    await session.hydrate_workspace(archive)
    assert (await session.exec("cat link notes/a.txt")).stdout == b"keptfrom the manifest"
    with pytest.raises(Exception, match="write"):
        await session.hydrate_workspace(io.BytesIO(b"no archive" * 1000))


async def test_ports(wanted: PyvmmSandboxClientOptions, tmp_path: Path) -> None:
    """A server inside has an address of the host; only the ports of the options do."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = PyvmmSandboxClient()
    changed = wanted.model_copy(update={"exposed_ports": (port,)})
    async with await client.create(manifest=Manifest(root=f"{tmp_path}/work"), options=changed) as session:
        serving = asyncio.create_task(session.exec(f"exec python3 {UPPER_SERVER} {port}"))
        found = await session.resolve_exposed_port(port)
        assert found.host == "127.0.0.1" and found.port != port and not found.tls
        while (answer := await ask(found.host, found.port)) != b"ONE":
            assert not answer and not serving.done()
        with pytest.raises(ExposedPortUnavailableError):
            await session.resolve_exposed_port(port - 1)
        serving.cancel()
        await asyncio.wait([serving])
    assert not list((tmp_path / "state").iterdir())


async def ask(host: str, port: int) -> bytes:
    """What a server answers; nothing: it is not there yet."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
        with contextlib.closing(writer):
            writer.write(b"one")
            writer.write_eof()
            return await reader.read()
    except OSError:
        return b""


async def test_sessions_are_resumed(wanted: PyvmmSandboxClientOptions, tmp_path: Path) -> None:
    """In their sandbox while it runs; otherwise in a new one, of the snapshot."""
    client = PyvmmSandboxClient()
    snapshot = LocalSnapshot(id="one", base_path=tmp_path / "snapshots")
    made = await client.create(manifest=Manifest(root=f"{tmp_path}/work"), options=wanted, snapshot=snapshot)
    await made.start()
    await made.exec("echo state > file")
    state = json.loads(json.dumps(client.serialize_session_state(made.state)))
    again = await PyvmmSandboxClient().resume(client.deserialize_session_state(state))
    await again.start()
    assert again.state.name == state["name"]
    assert (await again.exec("cat file")).stdout == b"state\n"
    await again.aclose()  # saves it, and ends it
    assert not await made.running()
    (tmp_path / "work" / "file").unlink()  # such machines share the host's files
    later = await client.resume(client.deserialize_session_state(state))
    async with later:
        assert later.state.name != state["name"]
        assert (await later.exec("cat file")).stdout == b"state\n"
    await client.delete(later)
    assert not list((tmp_path / "state").iterdir())


class Script(Model):  # type: ignore[misc]  # without the framework
    """Calls tools, and then answers with what the last one returned."""

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        self.calls = list(calls)

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:
        """See the base class."""
        if self.calls:
            name, arguments = self.calls.pop(0)
            said: Any = ResponseFunctionToolCall(
                type="function_call", call_id=f"call-{len(self.calls)}", name=name, arguments=json.dumps(arguments)
            )
        else:
            text = ResponseOutputText(type="output_text", text=str(input[-1]["output"]), annotations=[])
            said = ResponseOutputMessage(
                id="answer", type="message", role="assistant", status="completed", content=[text]
            )
        return ModelResponse(output=[said], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        """See the base class."""
        raise NotImplementedError


async def test_an_agent_uses_its_shell(wanted: PyvmmSandboxClientOptions, tmp_path: Path) -> None:
    """The runner starts a sandbox for the run, and ends it."""
    agent = SandboxAgent(
        name="one",
        model=Script(
            ("exec_command", {"cmd": "echo 6 > number"}), ("exec_command", {"cmd": "echo $((7 * $(cat number)))"})
        ),
        default_manifest=Manifest(root=f"{tmp_path}/work"),
    )
    config = RunConfig(sandbox=SandboxRunConfig(client=PyvmmSandboxClient(), options=wanted))
    result = await Runner.run(agent, "multiply", run_config=config)
    assert "42\n" in result.final_output
    assert not list((tmp_path / "state").iterdir())
