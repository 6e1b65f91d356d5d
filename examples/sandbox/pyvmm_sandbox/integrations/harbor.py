"""Sandboxes for trials of Harbor: ``harbor run --env pyvmm_sandbox.integrations.harbor:PyvmmEnvironment``.

The machine of a task is prepared once. Each trial has a fork of it.
"""

from __future__ import annotations

import asyncio
import json
import stat
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harbor.environments.base import BaseEnvironment, ExecResult
from harbor.environments.capabilities import EnvironmentCapabilities, EnvironmentResourceCapabilities
from harbor.environments.definition import COMPOSE_FILE_NAME, DOCKERFILE_NAME, require_agent_environment_definition
from harbor.environments.options import EnvironmentOptions
from pydantic import Field

from pyvmm_sandbox import AsyncSandbox, Sandbox
from pyvmm_sandbox.errors import SandboxGone, UsageError
from pyvmm_sandbox.integrations.users import ids_of

if TYPE_CHECKING:
    from collections.abc import Callable

PREPARED_MOST = 8
"""Machines that wait for trials; beyond it, the one that was used longest ago ends."""


class PyvmmOptions(EnvironmentOptions):  # type: ignore[misc]  # without the framework
    """What ``--ek NAME=VALUE`` can set.

    :ivar image: the name of an image, or a folder with a root file system; empty: the task's
    :ivar setup: commands that prepare a task's machine, once
    :ivar fork: each trial has a fork of the task's machine; otherwise a machine of its own, which is prepared
    :ivar options: others of :class:`~pyvmm_sandbox.Sandbox`
    """

    image: str = ""
    setup: list[str] = Field(default_factory=list)
    fork: bool = True
    options: dict[str, Any] = Field(default_factory=dict)


class PyvmmEnvironment(BaseEnvironment):  # type: ignore[misc]  # without the framework
    """The sandbox of a trial."""

    options_model = PyvmmOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._box: AsyncSandbox | None = None

    @staticmethod
    def type() -> str:
        """See the base class."""
        return "pyvmm"

    @property
    def capabilities(self) -> EnvironmentCapabilities:
        """See the base class."""
        return EnvironmentCapabilities(disable_internet=True)

    @classmethod
    def resource_capabilities(cls) -> EnvironmentResourceCapabilities:
        """See the base class."""
        return EnvironmentResourceCapabilities(cpu_limit=True, memory_limit=True, fractional_cpus=True)

    def _validate_definition(self) -> None:
        if (self.environment_dir / COMPOSE_FILE_NAME).exists():
            raise UsageError(f"{self.environment_name} needs Docker Compose", hint="run it with another environment")
        image = self.options.image or self.task_env_config.docker_image
        require_agent_environment_definition(self.environment_dir, docker_image=image)

    async def start(self, force_build: bool) -> None:
        """Fork the task's machine, which the first trial prepares."""
        starting = asyncio.create_task(asyncio.to_thread(self._begin, force_build))
        try:
            sandbox = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_discard)
            raise
        self._box = AsyncSandbox(sandbox)
        try:
            await self.ensure_dirs(self._mount_targets(writable_only=True))
            await self._upload_environment_dir_after_start()
        except BaseException:
            await asyncio.shield(self.stop(True))
            raise

    async def stop(self, delete: bool) -> None:
        """End the sandbox, which would end with Harbor's process in any case."""
        box, self._box = self._box, None
        if box is not None:
            await box.kill()

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        """Run a command line by bash.

        :raises CommandTimeout: it did not end in time
        """
        box, chosen = self._running(), self._resolve_user(user)
        result = await box.run(
            ["bash", "-c", command],
            cwd=cwd or self.task_env_config.workdir or "",
            env=self._merge_env(env),
            timeout=timeout_sec,
            user="" if chosen is None else await asyncio.to_thread(ids_of, box._sandbox.files, str(chosen)),
        )
        return ExecResult(stdout=result.stdout, stderr=result.stderr, return_code=result.exit_code)

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        """Write a file with the permissions that it has here."""
        source = Path(source_path)
        mode = stat.S_IMODE(source.stat().st_mode)
        await self._running().files.write(target_path, source.read_bytes(), mode=mode)

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        """Copy a directory into the sandbox."""
        await self._running().files.upload(source_dir, target_dir)

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        """Copy a file of the sandbox."""
        data = await self._running().files.read(source_path)
        target = Path(target_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        """Copy a directory of the sandbox. Nothing outside of *target_dir* is written."""
        Path(target_dir).mkdir(parents=True, exist_ok=True)
        await self._running().files.download(source_dir, target_dir)

    def _running(self) -> AsyncSandbox:
        if self._box is None:
            raise SandboxGone("the trial has no sandbox", hint="await environment.start()")
        return self._box

    def _begin(self, force_build: bool) -> Sandbox:
        image, wanted = self._image(force_build), self.options
        options: dict[str, Any] = {"network": "user" if self._network_is_public else "none", "timeout": None}
        if self._effective_cpus is not None:
            options["cpus"] = self._effective_cpus
        if self._effective_memory_mb is not None:
            options["memory"] = f"{self._effective_memory_mb}M"
        options |= wanted.options

        def make() -> Sandbox:
            box = Sandbox(image, **options)
            try:
                if self.task_env_config.workdir:
                    box.files.mkdir(self.task_env_config.workdir)
                for command in wanted.setup:
                    box.run(command, timeout=None, check=True)
            except BaseException:
                box.kill()
                raise
            return box

        if not wanted.fork:
            return make()
        key = [image, options, wanted.setup, self.task_env_config.workdir]
        return _PREPARED.fork(json.dumps(key, sort_keys=True, default=str), make)

    def _image(self, force_build: bool) -> str:
        """The image of the task; it is built from the task's Dockerfile unless the store has it."""
        given: str = self.options.image or self.task_env_config.docker_image or ""
        buildable = (self.environment_dir / DOCKERFILE_NAME).exists() and not self.options.image
        if given and not (force_build and buildable):
            return given
        from pyvmm_kata.image_store.store import ImageStore

        store, name = ImageStore(), f"harbor/{self.environment_id}"
        if force_build or store.find(name) is None:
            store.build(str(self.environment_dir), name)
        return name


class _Task:
    """The machine of a task. Its trials fork it one after the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._box: Sandbox | None = None

    def fork(self, make: Callable[[], Sandbox]) -> Sandbox:
        with self._lock:
            if self._box is None or not self._box.is_running:
                self._box = make()
            return self._box.fork()[0]


class _Prepared:
    """The machines of tasks. One that nobody refers to any more ends, as all sandboxes do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: OrderedDict[str, _Task] = OrderedDict()

    def fork(self, key: str, make: Callable[[], Sandbox]) -> Sandbox:
        with self._lock:
            task = self._tasks.setdefault(key, _Task())
            self._tasks.move_to_end(key)
            if len(self._tasks) > PREPARED_MOST:
                self._tasks.popitem(last=False)
        return task.fork(make)


_PREPARED = _Prepared()


def _discard(starting: asyncio.Task[Sandbox]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        threading.Thread(target=starting.result().kill).start()
