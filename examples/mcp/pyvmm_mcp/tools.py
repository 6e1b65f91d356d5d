"""The tools of the server: what a model reads of them, and what each does."""

from __future__ import annotations

import base64
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from pyvmm_mcp.arguments import Directory, Name, Path, Timeout, Variables
from pyvmm_mcp.services import Services
from pyvmm_mcp.settings import DEFAULT_TIMEOUT, MAX_ENTRIES
from pyvmm_sandbox.errors import CommandTimeout, SandboxGone, UsageError
from vmm import VmmError

if TYPE_CHECKING:
    from pyvmm_mcp.sandboxes import Box, Sandboxes
    from pyvmm_sandbox import Sandbox

INSTRUCTIONS = """\
Each sandbox is a virtual machine of its own. Create one, run commands or code in it, and kill it when it is no longer
needed. fork copies a running sandbox with its memory and processes: try alternatives in copies of one prepared sandbox.
start_command runs servers and interactive programs, and forward_port makes a server reachable from the host.
"""
INTERPRETERS = {"python": ["python3", "-"], "sh": ["sh"], "bash": ["bash"], "javascript": ["node", "-"]}
LATE_TAIL = 2000
"""Characters of the output of a command that was killed, in the error."""

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


@dataclass
class SandboxSummary:
    """A sandbox that runs."""

    sandbox: str
    source: str


@dataclass
class Listing:
    """All sandboxes and snapshots of the server."""

    sandboxes: list[SandboxSummary]
    snapshots: list[str]
    images: list[str]


@dataclass
class Output:
    """The output of a command.  *truncated*: it has printed more."""

    stdout: str
    stderr: str
    exit_code: int
    truncated: bool


@dataclass
class Content:
    """A part of a file.  *next_offset* is where the rest of it begins; null: this is all."""

    content: str
    encoding: Literal["utf-8", "base64"]
    next_offset: int | None


@dataclass
class File:
    """An entry of a directory."""

    path: str
    type: str
    size: int


@dataclass
class Files:
    """The entries of a directory, sorted by path.  *truncated*: there are more."""

    entries: list[File]
    truncated: bool


class Tools:
    """One method for each tool; its docstring and arguments are what clients see."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes
        self._settings = sandboxes.settings

    async def create_sandbox(
        self,
        image: Annotated[str, Field(description="An image that list_sandboxes names; empty: the first")] = "",
        snapshot: Annotated[str, Field(description="A snapshot to start from, instead of an image")] = "",
    ) -> SandboxSummary:
        """Start a sandbox: a virtual machine of its own for untrusted programs."""
        return _summary(await self._sandboxes.create(image, snapshot))

    async def run_command(
        self,
        sandbox: Name,
        command: Annotated[str, Field(description="A command line for sh")],
        timeout: Timeout = None,
        cwd: Directory = "",
        env: Variables = None,
        stdin: Annotated[str, Field(description="Its standard input")] = "",
    ) -> Output:
        """Run a shell command in a sandbox to its end. A command that fails is no error: see its exit_code."""
        return await self._run(sandbox, command, timeout, cwd=cwd, env=env, stdin=stdin)

    async def run_code(
        self,
        sandbox: Name,
        code: Annotated[str, Field(description="The whole program; it prints its results")],
        language: Literal["python", "sh", "bash", "javascript"] = "python",
        timeout: Timeout = None,
    ) -> Output:
        """Run a program in a sandbox. Each call starts an interpreter of its own; files stay, variables do not."""
        return await self._run(sandbox, INTERPRETERS[language], timeout, stdin=code)

    async def write_file(
        self,
        sandbox: Name,
        path: Path,
        content: str,
        encoding: Annotated[Literal["utf-8", "base64"], Field(description="How content is encoded")] = "utf-8",
    ) -> str:
        """Replace a file in a sandbox as a whole, and make its directories."""
        try:
            data = base64.b64decode(content, validate=True) if encoding == "base64" else content.encode()
        except ValueError as error:
            raise UsageError(f"content is not {encoding}: {error}") from error
        if len(data) > self._settings.max_file:
            raise UsageError(f"content has {len(data)} bytes: more than {self._settings.max_file}")
        async with self._sandboxes.use(sandbox) as box:
            await self._sandboxes.finish(box.twin.files.write(path, data))
        return f"{path} has {len(data)} bytes"

    async def read_file(
        self,
        sandbox: Name,
        path: Path,
        offset: Annotated[int, Field(ge=0, description="The first byte")] = 0,
    ) -> Content:
        """Read a file of a sandbox, or the next part of one that is large. Binary files come as base64."""
        async with self._sandboxes.use(sandbox) as box:
            data = await self._sandboxes.call(_read, box.sandbox, path, offset, self._settings.max_file + 1)
        return _content(data[: self._settings.max_file], offset, len(data) > self._settings.max_file)

    async def list_files(
        self,
        sandbox: Name,
        path: Path = "/",
        depth: Annotated[int, Field(ge=1, le=5, description="2: also what is in its directories, and so on")] = 1,
    ) -> Files:
        """List a directory of a sandbox."""
        async with self._sandboxes.use(sandbox) as box:
            found = await self._sandboxes.finish(box.twin.files.entries(path, depth=depth))
        entries = [File(_text(each.path), each.type, each.size) for each in found[:MAX_ENTRIES]]
        return Files(entries, len(found) > MAX_ENTRIES)

    async def snapshot(self, sandbox: Name) -> str:
        """Save a sandbox with its memory, processes and files; it continues. create_sandbox starts copies of it."""
        return await self._sandboxes.snapshot(sandbox)

    async def delete_snapshot(self, snapshot: Annotated[str, Field(description="The name of a snapshot")]) -> str:
        """Remove a snapshot. Sandboxes that were started from it stay."""
        await self._sandboxes.call(self._sandboxes.snapshots.delete, snapshot)
        return f"{snapshot} is removed"

    async def fork(
        self,
        sandbox: Name,
        count: Annotated[int, Field(ge=1, le=100, description="How many copies")] = 1,
    ) -> list[SandboxSummary]:
        """Copy a running sandbox with its memory, processes and files; it continues, and each copy runs, too."""
        return [_summary(box) for box in await self._sandboxes.fork(sandbox, count)]

    async def kill_sandbox(self, sandbox: Name) -> str:
        """End a sandbox. Its files are lost."""
        await self._sandboxes.kill(sandbox)
        return f"{sandbox} has ended"

    async def list_sandboxes(self) -> Listing:
        """List the sandboxes that run, the snapshots, and the images that create_sandbox accepts."""
        boxes = [_summary(box) for box in await self._sandboxes.running()]
        return Listing(boxes, list(self._sandboxes.snapshots.names), list(self._settings.images))

    async def _run(self, sandbox: str, command: str | list[str], timeout: float | None, **options: Any) -> Output:
        longest = self._settings.max_timeout
        if timeout is None:
            timeout = min(DEFAULT_TIMEOUT, longest)
        elif timeout > longest:
            raise UsageError(f"timeout {timeout:g} is more than {longest:g}")
        async with self._sandboxes.use(sandbox) as box:
            most = self._settings.max_output
            running = box.twin.run(command, timeout=timeout, max_output=most, **options)
            result = await self._sandboxes.finish(running)
        return Output(result.stdout, result.stderr, result.exit_code, result.truncated)


def make_server(sandboxes: Sandboxes, version: str) -> MCPServer[Any]:
    """The server of these sandboxes, without a transport."""
    server: MCPServer[Any] = MCPServer(
        "pyvmm", title="pyvmm sandboxes", version=version, instructions=INSTRUCTIONS, log_level="WARNING"
    )
    tools, services = Tools(sandboxes), Services(sandboxes)
    opened = sandboxes.settings.network != "none"
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    adds = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
    runs = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=opened)
    ends = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
    writes = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)
    for hints, methods in (
        (adds, (tools.create_sandbox, tools.snapshot, tools.fork, services.forward_port)),
        (runs, (tools.run_command, tools.run_code, services.start_command, services.write_input)),
        (writes, (tools.write_file,)),
        (reads, (tools.read_file, tools.list_files, tools.list_sandboxes)),
        (reads, (services.read_output, services.list_commands)),
        (ends, (tools.kill_sandbox, tools.delete_snapshot, services.stop_command, services.close_port)),
    ):
        for method in methods:
            server.add_tool(_with_hints(method), annotations=hints)
    return server


def _with_hints(method: Callable[_Arguments, Awaitable[_Answer]]) -> Callable[_Arguments, Awaitable[_Answer]]:
    """The same with errors that the model reads, and what it can do about each."""

    @functools.wraps(method)
    async def call(*args: _Arguments.args, **options: _Arguments.kwargs) -> _Answer:
        try:
            return await method(*args, **options)
        except SandboxGone as error:
            words = "the sandbox has ended: its time is over, it was killed, or it needed too much memory"
            raise ToolError(f"{words} (create another)") from error
        except CommandTimeout as error:
            late = "".join(
                f"\n{name} until then:\n{text[-LATE_TAIL:]}"
                for name, text in (("stdout", error.result.stdout), ("stderr", error.result.stderr))
                if text
            )
            raise ToolError(f"{error} ({error.hint}){late}") from error
        except VmmError as error:
            raise ToolError(f"{error} ({error.hint})" if error.hint else str(error)) from error
        except OSError as error:
            raise ToolError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error

    return call


def _summary(box: Box) -> SandboxSummary:
    return SandboxSummary(box.name, box.source)


def _text(path: str) -> str:
    """A path whose bytes are no UTF-8 cannot be sent as it is."""
    return path.encode(errors="surrogateescape").decode(errors="replace")


def _read(box: Sandbox, path: str, offset: int, most: int) -> bytes:
    """At most so many bytes of a file, however large it is."""
    found = bytearray()
    for piece in box.files.stream(path):
        skipped = min(offset, len(piece))
        offset -= skipped
        found += piece[skipped : skipped + most - len(found)]
        if len(found) == most:
            break
    return bytes(found)


def _content(data: bytes, offset: int, more: bool) -> Content:
    end = offset + len(data)
    try:
        return Content(data.decode(), "utf-8", end if more else None)
    except UnicodeDecodeError as error:
        whole = data[: error.start]
        if more and whole and len(data) - error.start < 4 and error.reason == "unexpected end of data":
            return Content(whole.decode(), "utf-8", offset + error.start)  # the next part begins with this character
    return Content(base64.b64encode(data).decode(), "base64", end if more else None)
