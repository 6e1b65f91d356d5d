"""Background commands, terminals and ports of the MCP server, with the SDK's own client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.kata.oci_runtime import needs_namespaces
from tests.mcp.test_mcp import Server, call, error, gone, run

pytestmark = needs_namespaces

UPPER_SERVER = Path(__file__).parents[1] / "sandbox" / "upper_server.py"


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


async def read_until(client: Client, box: str, command: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """All output of a command until it is enough."""
    whole: dict[str, Any] = {"stdout": "", "stderr": "", "exit_code": None, "truncated": False}
    while not done(whole):
        new = await call(client, "read_output", sandbox=box, command=command, wait=30)
        assert whole["exit_code"] is None, whole
        whole = {**new, "stdout": whole["stdout"] + new["stdout"], "stderr": whole["stderr"] + new["stderr"]}
    return whole


def has_ended(output: dict[str, Any]) -> bool:
    return output["exit_code"] is not None


def test_commands_run_in_the_background(server: Server) -> None:
    async def use() -> None:
        async with server.stdio("--max-output", "1000") as client:
            box = (await call(client, "create_sandbox"))["sandbox"]
            talk = "echo $A; while read line; do echo got $line; done; echo end >&2; exit 3"
            started = await call(client, "start_command", sandbox=box, command=talk, env={"A": "b"}, cwd="/usr")
            name = started["command"]
            assert started["pid"] > 0
            assert (await read_until(client, box, name, lambda seen: "b\n" in seen["stdout"]))["exit_code"] is None
            nothing = await call(client, "read_output", sandbox=box, command=name, wait=0)
            assert nothing == {"stdout": "", "stderr": "", "exit_code": None, "truncated": False}
            (running,) = await call(client, "list_commands", sandbox=box)
            assert running == {"command": name, "line": talk, "exit_code": None}
            await call(client, "write_input", sandbox=box, command=name, text="grüße\n", end=True)
            rest = await read_until(client, box, name, has_ended)
            assert rest == {"stdout": "got grüße\n", "stderr": "end\n", "exit_code": 3, "truncated": False}
            assert "does not read" in await error(client, "write_input", sandbox=box, command=name, text="more\n")
            assert "list_commands" in await error(client, "read_output", sandbox=box, command="command-9")
            many = (await call(client, "start_command", sandbox=box, command="yes | head -c 9000"))["command"]
            while (await call(client, "list_commands", sandbox=box))[1]["exit_code"] is None:
                await asyncio.sleep(0.02)  # nothing reports it; reading would take the output
            newest = await call(client, "read_output", sandbox=box, command=many)
            assert newest == {"stdout": "y\n" * 500, "stderr": "", "exit_code": 0, "truncated": True}

    run(use)
    gone(server)


def test_commands_are_stopped(server: Server) -> None:
    async def use() -> None:
        async with server.stdio() as client:
            box = (await call(client, "create_sandbox"))["sandbox"]
            trap = "trap 'echo caught; exit 4' INT; echo ready; while :; do read line; done"
            name = (await call(client, "start_command", sandbox=box, command=trap, terminal=True))["command"]
            await read_until(client, box, name, lambda seen: "ready" in seen["stdout"])
            stopped = await call(client, "stop_command", sandbox=box, command=name, signal="INT")
            assert "caught" in stopped["stdout"] and stopped["exit_code"] == 4
            again = await call(client, "stop_command", sandbox=box, command=name)
            assert again["exit_code"] == 4
            deaf = "trap '' INT TERM HUP; tail -f /dev/null"
            name = (await call(client, "start_command", sandbox=box, command=deaf))["command"]
            assert (await call(client, "stop_command", sandbox=box, command=name))["exit_code"] == 137
            for _ in range(14):
                await call(client, "start_command", sandbox=box, command="exec tail -f /dev/null")
            await call(client, "start_command", sandbox=box, command="exec tail -f /dev/null")  # one is forgotten
            await call(client, "start_command", sandbox=box, command="exec tail -f /dev/null")  # and another
            late = await error(client, "start_command", sandbox=box, command="true")
            assert "16 commands" in late and "stop_command" in late
            await call(client, "kill_sandbox", sandbox=box)
            assert "no sandbox" in await error(client, "list_commands", sandbox=box)

    run(use)
    gone(server)


def test_terminals(server: Server) -> None:
    async def use() -> None:
        async with server.stdio() as client:
            box = (await call(client, "create_sandbox"))["sandbox"]
            name = (await call(client, "start_command", sandbox=box, command="tty; stty size; cat", terminal=True))[
                "command"
            ]
            seen = await read_until(client, box, name, lambda seen: "24 80" in seen["stdout"])
            assert "/dev/pts/" in seen["stdout"]
            await call(client, "write_input", sandbox=box, command=name, text="typed\n")
            await read_until(client, box, name, lambda seen: seen["stdout"].count("typed") == 2)  # the echo and cat
            await call(client, "write_input", sandbox=box, command=name, text="\x04")
            assert (await read_until(client, box, name, has_ended))["exit_code"] == 0

    run(use)


def test_ports_lead_to_servers(server: Server) -> None:
    async def use() -> None:
        async with server.stdio() as client:
            box = (await call(client, "create_sandbox"))["sandbox"]
            serve = f"exec python3 -u {UPPER_SERVER}"
            name = (await call(client, "start_command", sandbox=box, command=serve))["command"]
            port = int((await read_until(client, box, name, lambda seen: "\n" in seen["stdout"]))["stdout"])
            found = await call(client, "forward_port", sandbox=box, port=port)
            assert found["port"] == port and found["url"].startswith("http://127.0.0.1:")
            assert await call(client, "forward_port", sandbox=box, port=port) == found
            address = ("127.0.0.1", int(found["url"].rpartition(":")[2]))
            with socket.create_connection(address) as sock:
                sock.sendall(b"hello")
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(100) == b"HELLO"
            await call(client, "close_port", sandbox=box, port=port)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            assert "forward_port" in await error(client, "close_port", sandbox=box, port=port)
            assert "port" in await error(client, "forward_port", sandbox=box, port=70000)
            await call(client, "forward_port", sandbox=box, port=port)
            await call(client, "stop_command", sandbox=box, command=name)  # such machines leave their programs
        gone(server)

    run(use)
