"""Sandboxes for agents of strands: ``Agent(sandbox=PyvmmSandbox(box))``."""

from __future__ import annotations

import asyncio
import posixpath
from typing import TYPE_CHECKING, Any

from strands.sandbox import LANGUAGE_PATTERN, ExecutionResult, FileInfo, StreamChunk
from strands.sandbox import Sandbox as StrandsSandbox
from strands.sandbox.errors import SandboxPathNotFoundError, SandboxTimeoutError
from strands.sandbox.posix_shell import validate_env_keys
from strands.vended_tools.file_editor import make_file_editor
from strands.vended_tools.shell import make_shell

from pyvmm_sandbox import AsyncSandbox
from pyvmm_sandbox.errors import CommandTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from strands.types.tools import AgentTool

    from pyvmm_sandbox import Sandbox
    from pyvmm_sandbox.commands import Result


class PyvmmSandbox(StrandsSandbox):  # type: ignore[misc]  # without the framework
    """Commands, programs and files of an agent. The agent also gets a shell and a file editor, unless it has tools
    ``sandbox_shell`` and ``sandbox_file_editor``.

    :param sandbox: stays the caller's, who ends it
    :param working_dir: where commands start and relative paths begin
    """

    def __init__(self, sandbox: Sandbox, *, working_dir: str = "/") -> None:
        self.working_dir = working_dir
        self._twin = AsyncSandbox(sandbox)

    def execute_streaming(
        self,
        command: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[StreamChunk | ExecutionResult, None]:
        """Run a command line: its output as it comes, and then its result."""
        return self._stream(command, "", timeout, cwd, env)

    def execute_code_streaming(
        self,
        code: str,
        language: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[StreamChunk | ExecutionResult, None]:
        """Run a program, which its interpreter reads from standard input.

        :param language: the interpreter, for example ``python3``
        """
        if not LANGUAGE_PATTERN.fullmatch(language):
            raise ValueError(f"{language[:80]!r} is not the name of an interpreter")
        return self._stream([language], code, timeout, cwd, env)

    async def read_file(self, path: str, **kwargs: Any) -> bytes:
        """The content of a file."""
        return await self._twin.files.read(self._path(path))

    async def write_file(self, path: str, content: bytes, **kwargs: Any) -> None:
        """Replace a file, and make its directories."""
        await self._twin.files.write(self._path(path), content)

    async def remove_file(self, path: str, **kwargs: Any) -> None:
        """Remove a file."""
        await self._twin.files.remove(self._path(path))

    async def list_files(self, path: str, **kwargs: Any) -> list[FileInfo]:
        """The entries of a directory."""
        try:
            found = await self._twin.files.entries(self._path(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SandboxPathNotFoundError(path) from error
        return [FileInfo(each.name, each.type == "directory", each.size) for each in found]

    def get_tools(self) -> list[AgentTool]:
        """What an agent with this sandbox can use."""
        where = f"Runs in a virtual machine of its own, in {self.working_dir} unless another directory is given."
        return [
            make_file_editor(sandbox=self, name="sandbox_file_editor"),
            make_shell(sandbox=self, name="sandbox_shell", description=f"Run a shell command. {where}"),
        ]

    async def _stream(
        self,
        command: str | list[str],
        stdin: str,
        timeout: float | None,
        cwd: str | None,
        env: dict[str, str] | None,
    ) -> AsyncGenerator[StreamChunk | ExecutionResult, None]:
        """The command is killed if the caller stops to iterate.

        :raises SandboxTimeoutError: it did not end in time
        """
        validate_env_keys(env or {})
        printed: asyncio.Queue[StreamChunk | None] = asyncio.Queue()
        call = self._twin.run(
            command,
            stdin=stdin,
            timeout=timeout,
            cwd=self._path(cwd or ""),
            env=env,
            on_stdout=lambda text: printed.put_nowait(StreamChunk(text, "stdout")),
            on_stderr=lambda text: printed.put_nowait(StreamChunk(text, "stderr")),
        )
        running: asyncio.Task[Result] = asyncio.create_task(call)
        running.add_done_callback(lambda _: printed.put_nowait(None))
        try:
            while (chunk := await printed.get()) is not None:
                yield chunk
            result = await running
        except CommandTimeout as error:
            raise SandboxTimeoutError(timeout, error.result.stdout, error.result.stderr) from error
        finally:
            running.cancel()
            await asyncio.wait([running])
        yield ExecutionResult(result.exit_code, result.stdout, result.stderr)

    def _path(self, path: str) -> str:
        return posixpath.join(self.working_dir, path)
