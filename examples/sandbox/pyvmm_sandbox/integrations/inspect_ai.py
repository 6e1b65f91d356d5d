"""Sandboxes for evaluations with Inspect: ``sandbox=("pyvmm", "python:3.13-slim")``.

Inspect finds this module by the entry point group ``inspect_ai``. Each sample has a sandbox of its own.
"""

from __future__ import annotations

import asyncio
import posixpath
from typing import Any, Literal, overload

from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUnavailableError,
    sandboxenv,
)
from pydantic import BaseModel

from pyvmm_sandbox import AsyncSandbox, Sandbox
from pyvmm_sandbox.errors import SandboxGone, UsageError
from pyvmm_sandbox.integrations.users import ids_of

NOT_EXECUTABLE = 126


class PyvmmConfig(BaseModel, frozen=True):
    """A sandbox.

    :ivar image: the name of an image, or a folder with a root file system
    :ivar working_dir: where commands start and relative paths begin; it is made
    :ivar options: others of :class:`~pyvmm_sandbox.Sandbox`
    """

    image: str
    cpus: float = 1
    memory: str = "512M"
    network: Literal["none", "user"] = "none"
    working_dir: str = "/workspace"
    options: dict[str, Any] = {}


@sandboxenv(name="pyvmm")
class PyvmmSandboxEnvironment(SandboxEnvironment):  # type: ignore[misc]  # without the framework
    """The sandbox of a sample.

    :param working_dir: absolute
    """

    def __init__(self, sandbox: Sandbox, working_dir: str) -> None:
        super().__init__()
        self._sandbox = sandbox
        self._twin = AsyncSandbox(sandbox)
        self._working_dir = working_dir

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """See the base class."""
        return PyvmmConfig(**config)

    @classmethod
    async def sample_init(
        cls, task_name: str, config: BaseModel | str | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        """Start a sandbox."""
        if isinstance(config, str):
            config = PyvmmConfig(image=config)
        if not isinstance(config, PyvmmConfig):
            raise UsageError("the sandbox has no image", hint='sandbox=("pyvmm", "python:3.13-slim")')
        options = {"timeout": None, **config.options}
        options |= {"cpus": config.cpus, "memory": config.memory, "network": config.network}
        sandbox = await asyncio.to_thread(lambda: Sandbox(config.image, **options))
        try:
            await asyncio.to_thread(sandbox.files.mkdir, config.working_dir)
        except BaseException:
            sandbox.kill()
            raise
        return {"default": cls(sandbox, config.working_dir)}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: BaseModel | str | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """End the sandboxes of a sample."""
        for each in environments.values():
            await asyncio.to_thread(each.as_type(cls)._sandbox.kill)

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Run a command. It is tried once: a time limit is no trouble of a connection here."""
        limits = SandboxEnvironmentLimits
        try:
            ids = await self._ids(user)
            if user is not None and not ids:
                return ExecResult(False, NOT_EXECUTABLE, "", f"user {user} does not exist\n")
            result = await self._twin.run(
                cmd,
                timeout=timeout,
                stdin=input or b"",
                env=env,
                cwd=self._path(cwd or ""),
                user=ids,
                max_output=limits.MAX_EXEC_OUTPUT_SIZE,
            )
        except SandboxGone as error:
            raise SandboxUnavailableError(str(error)) from error
        if result.truncated:
            raise OutputLimitExceededError(limits.MAX_EXEC_OUTPUT_SIZE_STR, result.stdout)
        if result.exit_code == NOT_EXECUTABLE and "ermission denied" in result.stderr:
            raise PermissionError(result.stderr.strip())
        return ExecResult(result.ok, result.exit_code, result.stdout, result.stderr)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Replace a file."""
        await self._twin.files.write(self._path(file), contents)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """The content of a file."""
        data = await asyncio.to_thread(self._read, self._path(file), SandboxEnvironmentLimits.MAX_READ_FILE_SIZE)
        return data.decode() if text else data

    def _read(self, path: str, most: int) -> bytes:
        found = bytearray()
        for piece in self._sandbox.files.stream(path):
            found += piece
            if len(found) > most:
                raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        return bytes(found)

    def _path(self, path: str) -> str:
        return posixpath.join(self._working_dir, path)

    async def _ids(self, user: str | None) -> str:
        """The ``UID:GID`` of a user of the sandbox; empty: it has none of this name, or *user* is None."""
        try:
            return await asyncio.to_thread(ids_of, self._sandbox.files, user) if user else ""
        except UsageError:
            return ""
