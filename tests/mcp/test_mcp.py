"""The MCP server, with the SDK's own client and machines that run their programs here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.kata.oci_runtime import PATIENCE, needs_namespaces
from tests.sandbox.fake_machines import environment, prepare

pytestmark = needs_namespaces


class Server:
    """A server, and how a test reaches it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.options = prepare(place)

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "tests.mcp.server", *self.options, *options]

    @contextlib.asynccontextmanager
    async def stdio(self, *options: str) -> AsyncIterator[Client]:
        program, *words = self.command(*options)
        parameters = StdioServerParameters(command=program, args=words, env=environment(self.place))
        async with Client(parameters) as client:
            yield client

    @contextlib.contextmanager
    def started(self, *options: str) -> Any:
        """A server over HTTP, and its address."""
        command = self.command("--http", "0", *options)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(self.place)) as process:
            assert process.stderr is not None
            url = process.stderr.readline().strip()
            assert url.startswith("http://127.0.0.1:"), url + process.stderr.read()
            try:
                yield process, url
            finally:
                process.terminate()

    @contextlib.asynccontextmanager
    async def http(self, *options: str) -> AsyncIterator[Client]:
        with self.started(*options) as (_, url):
            async with Client(url) as client:
                yield client

    @property
    def left(self) -> list[str]:
        """What is there of sandboxes."""
        state = self.place / "state"
        folders = [name for name in os.listdir(self.place) if name.startswith("pyvmm-")]
        return folders + (os.listdir(state) if state.exists() else [])


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """The value of a tool."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    value = result.structured_content
    assert value is not None
    return value["result"] if list(value) == ["result"] else value


async def error(client: Client, tool: str, **arguments: Any) -> str:
    """What the model reads of a tool that fails."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    return str(result.content[0].text)  # type: ignore[union-attr]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), PATIENCE)

    asyncio.run(limited())


@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_sandboxes_are_tools(server: Server, transport: str) -> None:
    async def use() -> None:
        async with getattr(server, transport)() as client:
            box = (await call(client, "create_sandbox"))["sandbox"]
            ran = await call(
                client, "run_command", sandbox=box, command="cat; echo $A >&2; exit 3", stdin="hi", env={"A": "b"}
            )
            assert ran == {"stdout": "hi", "stderr": "b\n", "exit_code": 3, "truncated": False}
            assert (await call(client, "run_code", sandbox=box, code="print(6 * 7)"))["stdout"] == "42\n"
            assert (await call(client, "run_code", sandbox=box, code="echo $((6 * 7))", language="sh"))[
                "stdout"
            ] == "42\n"
            path = f"{server.place}/files/deep/a"
            await call(client, "write_file", sandbox=box, path=path, content="grüße\n")
            assert Path(path).read_text() == "grüße\n"
            assert await call(client, "read_file", sandbox=box, path=path) == {
                "content": "grüße\n",
                "encoding": "utf-8",
                "next_offset": None,
            }
            await call(client, "write_file", sandbox=box, path=path, content="AP8=", encoding="base64")
            assert Path(path).read_bytes() == b"\0\xff"
            assert (await call(client, "read_file", sandbox=box, path=path))["content"] == "AP8="
            listed = await call(client, "list_files", sandbox=box, path=f"{server.place}/files", depth=2)
            assert [(each["path"], each["type"]) for each in listed["entries"]] == [
                (f"{server.place}/files/deep", "directory"),
                (path, "file"),
            ]
            copies = [each["sandbox"] for each in await call(client, "fork", sandbox=box, count=2)]
            saved = await call(client, "snapshot", sandbox=box)
            more = (await call(client, "create_sandbox", snapshot=saved))["sandbox"]
            all_of_them = [box, *copies, more]
            for each in all_of_them:
                assert (await call(client, "run_command", sandbox=each, command="echo one"))["stdout"] == "one\n"
            everything = await call(client, "list_sandboxes")
            assert [each["sandbox"] for each in everything["sandboxes"]] == all_of_them
            assert everything["snapshots"] == [saved]
            await call(client, "delete_snapshot", snapshot=saved)
            for each in all_of_them[1:]:
                await call(client, "kill_sandbox", sandbox=each)
            everything = await call(client, "list_sandboxes")
            assert [each["sandbox"] for each in everything["sandboxes"]] == [box]
            assert everything["snapshots"] == []

    run(use)
    gone(server)


def gone(server: Server) -> None:
    """Wait until nothing of a server is left."""
    for _ in range(int(PATIENCE * 20)):
        if not server.left:
            return
        signal.sigtimedwait([], 0.05)  # the process that cleans up is not a child of this one
    raise AssertionError(server.left)


def test_clients_learn_which_tools_change_something(server: Server) -> None:
    async def use() -> None:
        async with server.stdio() as client:
            tools = {each.name: each for each in (await client.list_tools()).tools}
        hints = {name: each.annotations for name, each in tools.items()}
        reading = {name for name, each in hints.items() if each and each.read_only_hint}
        assert reading == {"read_file", "list_files", "list_sandboxes", "read_output", "list_commands"}
        destructive = {name for name, each in hints.items() if each and each.destructive_hint}
        runs, ends = {"run_command", "run_code", "start_command", "write_input"}, {"stop_command", "close_port"}
        assert destructive == {*runs, *ends, "write_file", "kill_sandbox", "delete_snapshot"}
        assert not any(each.open_world_hint for each in hints.values() if each)
        for each in tools.values():
            assert each.description and each.output_schema
            for name, schema in each.input_schema["properties"].items():
                assert name == "content" or "description" in schema or "enum" in schema, (each.name, name)
        async with server.stdio("--network", "user") as client:
            opened = [each.name for each in (await client.list_tools()).tools if each.annotations.open_world_hint]  # type: ignore[union-attr]
            assert opened == ["run_command", "run_code", "start_command", "write_input"]

    run(use)


def test_errors_tell_the_model_what_to_do(server: Server) -> None:
    async def use() -> None:
        limits = ["--max-sandboxes", "2", "--max-snapshots", "1", "--max-output", "1000", "--max-file", "1000"]
        async with server.stdio(*limits, "--max-timeout", "50") as client:
            box = (await call(client, "create_sandbox"))["sandbox"]
            assert "list_sandboxes" in await error(client, "run_command", sandbox="none", command="true")
            assert f"use {server.place}/rootfs" in await error(client, "create_sandbox", image="/")
            assert "no snapshot" in await error(client, "create_sandbox", snapshot="../..")
            assert "kill_sandbox" in await error(client, "fork", sandbox=box, count=2)
            await call(client, "fork", sandbox=box)
            assert "kill_sandbox" in await error(client, "create_sandbox")
            await call(client, "snapshot", sandbox=box)
            assert "delete_snapshot" in await error(client, "snapshot", sandbox=box)
            late = await error(client, "run_command", sandbox=box, command="echo begun; sleep 600", timeout=1)
            assert "did not end in 1 s" in late and "begun" in late and "raise its timeout" in late
            assert "more than 50" in await error(client, "run_command", sandbox=box, command="true", timeout=51)
            assert "timeout" in await error(client, "run_command", sandbox=box, command="true", timeout=-1)
            big = await call(client, "run_command", sandbox=box, command="yes | head -c 5000")
            assert big["truncated"] and len(big["stdout"]) == 1000
            assert "No such file" in await error(client, "read_file", sandbox=box, path="/none")
            assert "absolute" in await error(client, "read_file", sandbox=box, path="none")
            assert "more than 1000" in await error(client, "write_file", sandbox=box, path="/a", content="x" * 1001)
            assert "not base64" in await error(
                client, "write_file", sandbox=box, path="/a", content="?", encoding="base64"
            )
            with contextlib.suppress(MCPError):
                assert "Unknown tool" in await error(client, "none")
            assert (await call(client, "run_command", sandbox=box, command="true"))["exit_code"] == 0

    run(use)


def test_large_files_are_read_in_parts(server: Server) -> None:
    text = "aä€😀" * 1000

    async def use() -> None:
        async with server.stdio("--max-file", "1000") as client:
            box = (await call(client, "create_sandbox"))["sandbox"]
            (server.place / "text").write_text(text)
            offset, parts = 0, []
            while offset is not None:
                part = await call(client, "read_file", sandbox=box, path=f"{server.place}/text", offset=offset)
                assert part["encoding"] == "utf-8"
                parts.append(part["content"])
                offset = part["next_offset"]
            assert "".join(parts) == text and len(parts) > 5
            endless = await call(client, "read_file", sandbox=box, path="/dev/zero", offset=5_000_000)
            assert endless["content"] == "\0" * 1000 and endless["next_offset"] == 5_001_000

    run(use)


def test_an_idle_sandbox_ends_and_a_busy_one_does_not(server: Server) -> None:
    async def use() -> None:
        async with server.stdio("--idle-timeout", "2") as client:
            box = (await call(client, "create_sandbox"))["sandbox"]
            assert (await call(client, "run_command", sandbox=box, command="timeout 3 tail -f /dev/null; echo on"))[
                "stdout"
            ] == "on\n"
            while (await call(client, "list_sandboxes"))["sandboxes"]:
                await asyncio.sleep(0.05)  # nothing reports it
            assert "no sandbox" in await error(client, "run_command", sandbox=box, command="true")

    run(use)


def test_a_request_that_is_cancelled_ends_its_command(server: Server) -> None:
    nap = f"sleep 600.{os.getpid()}"

    def naps() -> bool:
        return subprocess.run(["pgrep", "-fx", nap], capture_output=True).returncode == 0

    async def use() -> None:
        async with server.stdio() as client:
            box = (await call(client, "create_sandbox"))["sandbox"]
            running = asyncio.create_task(client.call_tool("run_command", {"sandbox": box, "command": nap}))
            while not naps():
                await asyncio.sleep(0.02)  # nothing reports it
            running.cancel()
            while naps():
                await asyncio.sleep(0.02)  # likewise
            assert (await call(client, "run_command", sandbox=box, command="echo on"))["stdout"] == "on\n"

    run(use)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_a_server_that_ends_leaves_nothing(server: Server, transport: str, number: signal.Signals) -> None:
    async def use(url: str) -> None:
        async with Client(url) as client:
            box = (await call(client, "create_sandbox"))["sandbox"]
            await call(client, "snapshot", sandbox=box)

    if transport == "http":
        with server.started() as (process, url):
            run(lambda: use(url))
            process.send_signal(number)
            assert process.wait(PATIENCE) == (-number if number == signal.SIGKILL else 0)
    else:
        with subprocess.Popen(
            server.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(server.place)
        ) as process:
            say(
                process,
                "initialize",
                protocolVersion="2025-06-18",
                capabilities={},
                clientInfo={"name": "t", "version": "1"},
            )
            box = say(process, "tools/call", name="create_sandbox", arguments={})["structuredContent"]["sandbox"]
            say(process, "tools/call", name="snapshot", arguments={"sandbox": box})
            process.send_signal(number)
            assert process.wait(PATIENCE) == (-number if number == signal.SIGKILL else 0)
    if number == signal.SIGKILL:  # a later server removes its snapshots

        async def later() -> None:
            async with server.stdio() as client:
                box = (await call(client, "create_sandbox"))["sandbox"]
                await call(client, "snapshot", sandbox=box)

        run(later)
    gone(server)


def say(process: subprocess.Popen[str], method: str, **params: Any) -> Any:
    """The result of a request on the pipes of a server."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}) + "\n")
    if method == "initialize":
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())["result"]


def test_who_may_use_it_over_http(server: Server) -> None:
    (server.place / "token").write_text("secret\n")
    call_ = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accept = {"Accept": "application/json, text/event-stream"}

    async def use(url: str) -> None:
        headers = {"Authorization": "Bearer secret"}
        async with (
            httpx2.AsyncClient(headers=headers) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            assert (await client.list_tools()).tools

    with server.started("--token-file", f"{server.place}/token") as (_, url):
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            assert httpx2.post(url, json=call_, headers={**accept, **wrong}).status_code == 401
        run(lambda: use(url))
    with server.started() as (_, url):  # a page whose name leads to this host
        for wrong in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            assert httpx2.post(url, json=call_, headers={**accept, **wrong}).status_code in (403, 421)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--http", "0.0.0.0:0"], "--token-file"),
        (["--http", "many"], "not [HOST:]PORT"),
        (["--token-file", "/none"], "needs --http"),
        (["--http", "0", "--token-file", "/none"], "No such file"),
        (["--max-sandboxes", "0"], "--max-sandboxes"),
    ],
)
def test_bad_options(server: Server, options: list[str], words: str) -> None:
    ran = subprocess.run(server.command(*options), capture_output=True, text=True, env=environment(server.place))
    assert ran.returncode == 2 and words in ran.stderr and "Traceback" not in ran.stderr
