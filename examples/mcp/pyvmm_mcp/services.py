"""Tools for what runs on in a sandbox: commands in the background, terminals, and servers on ports."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pyvmm_mcp.arguments import Directory, Name, Variables
from pyvmm_sandbox.errors import SandboxError, UsageError

if TYPE_CHECKING:
    from pyvmm_mcp.sandboxes import Sandboxes
    from pyvmm_sandbox import Command

FORWARDS_MOST = 16
"""Ports of a sandbox."""
WRITE_S = 10.0
Running = Annotated[str, Field(description="The command, as start_command names it")]
Port = Annotated[int, Field(ge=1, le=65535, description="A TCP port in the sandbox")]
SIGNALS = {name: getattr(signal, f"SIG{name}") for name in ("KILL", "INT", "TERM", "HUP")}


@dataclass
class Started:
    """A command that runs in the background.  *pid* is its number in the sandbox."""

    command: str
    pid: int


@dataclass
class NewOutput:
    """What a command has printed since the last call.  *exit_code* is null while it runs.  *truncated*: the oldest
    output was dropped."""

    stdout: str
    stderr: str
    exit_code: int | None
    truncated: bool


@dataclass
class CommandSummary:
    """A background command.  *exit_code* is null while it runs."""

    command: str
    line: str
    exit_code: int | None


@dataclass
class Forwarded:
    """A port of a sandbox, and where programs on this host reach it."""

    port: int
    url: str


class Services:
    """One method for each tool; its docstring and arguments are what clients see."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def start_command(
        self,
        sandbox: Name,
        command: Annotated[str, Field(description="A command line for sh")],
        terminal: Annotated[bool, Field(description="It has a terminal of 24 lines and 80 columns")] = False,
        cwd: Directory = "",
        env: Variables = None,
    ) -> Started:
        """Start a shell command in the background: a server, or a program that asks for input. read_output has its
        output, write_input its input, stop_command ends it."""
        async with self._sandboxes.use(sandbox) as box:

            def start() -> Command:
                return box.sandbox.popen(command, cwd=cwd, env=env, tty=terminal)

            most = self._sandboxes.settings.max_output
            name, made = await self._sandboxes.call(box.commands.start, start, command, most)
        return Started(name, made.pid)

    async def read_output(
        self,
        sandbox: Name,
        command: Running,
        wait: Annotated[float, Field(ge=0, le=30, description="Seconds to wait for output, or for its end")] = 5,
    ) -> NewOutput:
        """Read what a background command has printed since the last call. A terminal's output is stdout."""
        async with self._sandboxes.use(sandbox) as box:
            return NewOutput(*await self._sandboxes.call(box.commands.get(command).read, wait))

    async def write_input(
        self,
        sandbox: Name,
        command: Running,
        text: Annotated[str, Field(description="As it is typed: a line ends with a newline character")] = "",
        end: Annotated[bool, Field(description="Standard input ends; for a terminal, send \\u0004 instead")] = False,
    ) -> str:
        """Write to the standard input of a background command, or to its terminal."""
        async with self._sandboxes.use(sandbox) as box:
            writing = self._sandboxes.call(box.commands.get(command).write, text, end)
            try:
                await asyncio.wait_for(writing, WRITE_S)
            except TimeoutError as error:
                raise SandboxError("the command has not read it all yet", hint="call read_output first") from error
        return f"{len(text)} characters are written"

    async def stop_command(
        self,
        sandbox: Name,
        command: Running,
        signal: Annotated[
            Literal["KILL", "INT", "TERM", "HUP"], Field(description="KILL ends all that it has started, too")
        ] = "KILL",
    ) -> NewOutput:
        """Send a signal to a background command. Returns its last output; exit_code is null if it still runs."""
        async with self._sandboxes.use(sandbox) as box:
            found = box.commands.get(command)
            await self._sandboxes.call(found.stop, SIGNALS[signal])
            return NewOutput(*await self._sandboxes.call(found.read, 0))

    async def list_commands(self, sandbox: Name) -> list[CommandSummary]:
        """List the background commands of a sandbox. Copies by fork run them, too, but cannot read or stop them."""
        async with self._sandboxes.use(sandbox) as box:
            return [CommandSummary(name, each.words, each.exit_code) for name, each in box.commands.items()]

    async def forward_port(self, sandbox: Name, port: Port) -> Forwarded:
        """Make a TCP server in a sandbox reachable from this host. It needs no network, and can start later."""
        async with self._sandboxes.use(sandbox) as box:
            if port not in box.forwards:
                if len(box.forwards) >= FORWARDS_MOST:
                    raise UsageError(f"{FORWARDS_MOST} ports are forwarded", hint="close_port ends one")
                made = await self._sandboxes.finish(box.twin.ports.forward(port))
                if box.forwards.setdefault(port, made) is not made:
                    made.close()  # another call was faster
            return Forwarded(port, box.forwards[port].url)

    async def close_port(self, sandbox: Name, port: Port) -> str:
        """End what forward_port has begun, with its connections."""
        async with self._sandboxes.use(sandbox) as box:
            if port not in box.forwards:
                raise UsageError(f"port {port} is not forwarded", hint="forward_port does so")
            await self._sandboxes.call(box.forwards.pop(port).close)
        return f"port {port} is not forwarded any more"
