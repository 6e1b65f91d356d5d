"""Sandboxes for agents of google-adk: ``EnvironmentToolset(environment=PyvmmEnvironment("python:3.13-slim"))``, and
``LlmAgent(code_executor=PyvmmCodeExecutor(image="python:3.13-slim"))``."""

from __future__ import annotations

import asyncio
import posixpath
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.adk.code_executors.base_code_executor import BaseCodeExecutor
from google.adk.code_executors.code_execution_utils import CodeExecutionInput, CodeExecutionResult, File
from google.adk.environment import BaseEnvironment, ExecutionResult
from pydantic import Field, PrivateAttr

from pyvmm_sandbox import AsyncSandbox, Sandbox
from pyvmm_sandbox.errors import CommandTimeout, SandboxGone, UsageError

if TYPE_CHECKING:
    from google.adk.agents.invocation_context import InvocationContext

KILLED = 137
"""The status of a command that was killed: 128 and SIGKILL."""


class PyvmmEnvironment(BaseEnvironment):  # type: ignore[misc]  # without the framework
    """A sandbox from :meth:`initialize` to :meth:`close`.

    :param image: the name of an image, or a folder with a root file system
    :param working_dir: where commands start and relative paths begin; it is made
    :param options: others of :class:`~pyvmm_sandbox.Sandbox`
    """

    def __init__(self, image: str, *, working_dir: str = "/workspace", **options: Any) -> None:
        if not posixpath.isabs(working_dir):
            raise UsageError(f"working_dir={working_dir!r} is not absolute", hint='for example "/workspace"')
        self._image = image
        self._working_dir = working_dir
        self._options = {"timeout": None, **options}
        self._box: AsyncSandbox | None = None

    @property
    def working_dir(self) -> Path:
        """Inside the sandbox."""
        return Path(self._working_dir)

    @property
    def sandbox(self) -> Sandbox:
        """For what the framework does not have: forks, snapshots, ports.

        :raises SandboxGone: there is none
        """
        return self._running()._sandbox

    async def initialize(self) -> None:
        """Start the sandbox. A second call does nothing."""
        if self._box is not None:
            return
        box = await AsyncSandbox.create(self._image, **self._options)
        try:
            await box.files.mkdir(self._working_dir)
        except BaseException:
            await asyncio.shield(box.kill())
            raise
        self._box = box
        self.is_initialized = True

    async def close(self) -> None:
        """End the sandbox. A second call does nothing."""
        box, self._box = self._box, None
        self.is_initialized = False
        if box is not None:
            await box.kill()

    async def execute(self, command: str, *, timeout: float | None = None) -> ExecutionResult:
        """Run a command line."""
        try:
            result = await self._running().run(command, timeout=timeout, cwd=self._working_dir)
        except CommandTimeout as error:
            printed = error.result
            return ExecutionResult(KILLED, printed.stdout, printed.stderr, timed_out=True)
        return ExecutionResult(result.exit_code, result.stdout, result.stderr)

    async def read_file(self, path: str | Path) -> bytes:
        """The content of a file."""
        return await self._running().files.read(self._path(path))

    async def write_file(self, path: str | Path, content: str | bytes) -> None:
        """Replace a file, and make its directories."""
        await self._running().files.write(self._path(path), content)

    def _path(self, path: str | Path) -> str:
        return posixpath.join(self._working_dir, str(path))

    def _running(self) -> AsyncSandbox:
        if self._box is None:
            raise SandboxGone("the environment has no sandbox", hint="await environment.initialize()")
        return self._box


class PyvmmCodeExecutor(BaseCodeExecutor):  # type: ignore[misc]  # without the framework
    """Runs the Python programs of an agent, all in one sandbox, which starts with the first one. Files stay, variables
    do not.

    :ivar image: the name of an image with ``python3``, or a folder with a root file system
    :ivar working_dir: where programs start, and where input files are
    :ivar options: others of :class:`~pyvmm_sandbox.Sandbox`
    """

    image: str
    working_dir: str = "/workspace"
    options: dict[str, Any] = Field(default_factory=dict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _box: Any = PrivateAttr(default=None)

    def execute_code(
        self, invocation_context: InvocationContext, code_execution_input: CodeExecutionInput
    ) -> CodeExecutionResult:
        """Run a program. New and changed files of the working directory are its output files."""
        with self._lock:
            box = self._start()
            for each in code_execution_input.input_files:
                box.files.write(posixpath.join(self.working_dir, each.name), each.content)
            before = self._files(box)
            try:
                limit = self.timeout_seconds
                code = code_execution_input.code
                result = box.run(["python3", "-"], stdin=code, cwd=self.working_dir, timeout=limit)
                stdout, stderr = result.stdout, result.stderr
            except CommandTimeout as error:
                stdout, stderr = error.result.stdout, f"{error.result.stderr}\n{error}"
            changed = [path for path, state in self._files(box).items() if before.get(path) != state]
            made = [
                File(name=posixpath.relpath(path, self.working_dir), content=box.files.read(path)) for path in changed
            ]
        return CodeExecutionResult(stdout=stdout, stderr=stderr, output_files=made)

    def close(self) -> None:
        """End the sandbox. A later program starts another one."""
        with self._lock:
            box, self._box = self._box, None
        if box is not None:
            box.kill()

    def _start(self) -> Sandbox:
        if isinstance(self._box, Sandbox):
            return self._box
        box = Sandbox(self.image, **{"timeout": None, **self.options})
        try:
            box.files.mkdir(self.working_dir)
        except BaseException:
            box.kill()
            raise
        self._box = box
        return box

    def _files(self, box: Sandbox) -> dict[str, tuple[int, float]]:
        found = box.files.entries(self.working_dir)
        return {each.path: (each.size, each.modified) for each in found if each.type == "file"}
