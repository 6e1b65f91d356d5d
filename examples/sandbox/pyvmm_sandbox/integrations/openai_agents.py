"""Sandboxes for the sandbox agents of openai-agents: ``SandboxRunConfig(client=PyvmmSandboxClient(), options=...)``."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import tempfile
import uuid
from typing import TYPE_CHECKING, Any, Literal, cast

from agents.sandbox import Manifest
from agents.sandbox.errors import (
    ExecTimeoutError,
    ExecTransportError,
    ExposedPortUnavailableError,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
    WorkspaceReadNotFoundError,
    WorkspaceStartError,
    WorkspaceWriteTypeError,
)
from agents.sandbox.session import (
    BaseSandboxClient,
    BaseSandboxClientOptions,
    Instrumentation,
    SandboxSession,
    SandboxSessionState,
)
from agents.sandbox.session.runtime_helpers import RESOLVE_WORKSPACE_PATH_HELPER, RuntimeHelperScript
from agents.sandbox.snapshot import resolve_snapshot
from agents.sandbox.types import ExecResult, ExposedPortEndpoint
from pydantic import Field

from pyvmm_sandbox import AsyncSandbox, Sandbox
from pyvmm_sandbox.errors import CommandTimeout, SandboxGone, SandboxNotFound
from pyvmm_sandbox.integrations.archives import head, load, save
from pyvmm_sandbox.integrations.openai_terminals import TerminalSession
from pyvmm_sandbox.integrations.users import ids_of
from vmm import VmmError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from agents.sandbox.snapshot import SnapshotBase, SnapshotSpec
    from agents.sandbox.types import User

    from pyvmm_sandbox.ports import Forward

_IN_MEMORY = 8 << 20
"""Bytes of an archive that are not in a file."""


class PyvmmSandboxClientOptions(BaseSandboxClientOptions):  # type: ignore[misc]  # without the framework
    """A sandbox.

    :ivar image: the name of an image, or a folder with a root file system
    :ivar timeout: seconds after which the sandbox ends; None: never
    :ivar env: variables of all commands
    :ivar exposed_ports: what ``session.resolve_exposed_port()`` can name
    :ivar options: others of :class:`~pyvmm_sandbox.Sandbox`
    """

    type: Literal["pyvmm"] = "pyvmm"
    image: str
    timeout: float | None = 3600
    env: dict[str, str] = Field(default_factory=dict)
    exposed_ports: tuple[int, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)


class PyvmmSandboxSessionState(SandboxSessionState):  # type: ignore[misc]  # without the framework
    """What another process needs to continue.

    :ivar name: of the sandbox, which is detached
    """

    type: Literal["pyvmm"] = "pyvmm"
    name: str
    sandbox: PyvmmSandboxClientOptions


class PyvmmSandboxSession(TerminalSession):
    """The workspace of an agent, in a sandbox."""

    state: PyvmmSandboxSessionState

    def __init__(self, state: PyvmmSandboxSessionState, sandbox: Sandbox) -> None:
        self.state = state
        self._sandbox = sandbox
        self._twin = AsyncSandbox(sandbox)
        self._processes = {}
        self._forwards: dict[int, Forward] = {}

    async def kill(self) -> None:
        """End the sandbox; another process can have done so."""
        with contextlib.suppress(VmmError):
            await self._twin.kill()

    async def running(self) -> bool:
        """See the base class."""
        return await asyncio.to_thread(lambda: self._sandbox.is_running)

    async def read(self, path: Path, *, user: str | User | None = None) -> io.IOBase:
        """See the base class; *user* must be able to read it."""
        place = await (
            self._validate_path_access(path) if user is None else self._check_read_with_exec(path, user=user)
        )
        with _reading(path):
            return io.BytesIO(await self._twin.files.read(str(place)))

    async def write(self, path: Path, data: io.IOBase, *, user: str | User | None = None) -> None:
        """See the base class; *user* must be able to write it."""
        if user is not None:
            await self._check_write_with_exec(path, user=user)
        place = await self._validate_path_access(path, for_write=True)
        content = data.read()
        if not isinstance(content, str | bytes | bytearray):
            raise WorkspaceWriteTypeError(path=path, actual_type=type(content).__name__)
        with _writing(path):
            await self._twin.files.write(str(place), content if isinstance(content, str) else bytes(content))

    async def persist_workspace(self) -> io.IOBase:
        """The workspace as a tar archive, which is in a temporary file if it is large."""
        left_out = [f"--exclude=./{each.as_posix()}" for each in sorted(self._persist_workspace_skip_relpaths())]
        archive = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  # the caller's
        command = ["tar", *left_out, "-C", self._root, "-cf", "-", "."]
        try:
            with _reading(self._workspace_root_path()):
                await asyncio.to_thread(save, self._sandbox, command, archive)
        except BaseException:
            archive.close()
            raise
        archive.seek(0)
        return cast(io.IOBase, archive)

    async def hydrate_workspace(self, data: io.IOBase) -> None:
        """Unpack a tar archive inside the sandbox, where its links can reach nothing of the host."""
        with _writing(self._workspace_root_path()):
            await self._twin.files.mkdir(self._root)
            await asyncio.to_thread(load, self._sandbox, ["tar", "-C", self._root, "-xf", "-"], data)

    @property
    def _root(self) -> str:
        return str(self.state.manifest.root)

    async def _exec_internal(self, *command: str | Path, timeout: float | None = None) -> ExecResult:
        try:
            words, options = await self._how(command)
            result = await self._twin.run(words, timeout=timeout, **options)
        except CommandTimeout as error:
            raise ExecTimeoutError(command=command, timeout_s=timeout, cause=error) from error
        except (VmmError, OSError) as error:
            raise ExecTransportError(command=command, message=str(error), cause=error, retryable=False) from error
        return ExecResult(stdout=result.stdout.encode(), stderr=result.stderr.encode(), exit_code=result.exit_code)

    async def _how(self, command: Sequence[str | Path]) -> tuple[list[str], dict[str, Any]]:
        words, user = [str(word) for word in command], ""
        if words[:2] == ["sudo", "-u"] and words[3:4] == ["--"]:  # how the base class chooses a user
            user, words = words[2], words[4:]
        ids = await asyncio.to_thread(ids_of, self._sandbox.files, user) if user else ""
        return words, {"env": await self._env(), "cwd": self._root, "user": ids}

    async def _env(self) -> dict[str, str]:
        return {**self.state.sandbox.env, **await self.state.manifest.environment.resolve()}

    async def _resolve_exposed_port(self, port: int) -> ExposedPortEndpoint:
        try:
            if port not in self._forwards:
                self._forwards[port] = await self._twin.ports.forward(port)
        except (VmmError, OSError) as error:
            known = self.state.exposed_ports
            reason = "backend_unavailable"
            raise ExposedPortUnavailableError(port=port, exposed_ports=known, reason=reason, cause=error) from error
        return ExposedPortEndpoint(host=self._forwards[port].host, port=self._forwards[port].port)

    async def _prepare_backend_workspace(self) -> None:
        try:
            await self._twin.files.mkdir(self._root)
        except (VmmError, OSError) as error:
            raise WorkspaceStartError(path=self._workspace_root_path(), cause=error) from error

    async def _shutdown_backend(self) -> None:
        await self.kill()

    async def _validate_path_access(self, path: Path | str, *, for_write: bool = False) -> Path:
        return cast("Path", await self._validate_remote_path_access(path, for_write=for_write))

    def _runtime_helpers(self) -> tuple[RuntimeHelperScript, ...]:
        return (RESOLVE_WORKSPACE_PATH_HELPER,)

    def _current_runtime_helper_cache_key(self) -> str:
        return self.state.name

    async def _read_bounded(self, path: Path, *, max_bytes: int) -> bytes:
        place = await self._validate_path_access(path)
        with _reading(path):
            return await asyncio.to_thread(head, self._sandbox, str(place), max_bytes)


class PyvmmSandboxClient(BaseSandboxClient[PyvmmSandboxClientOptions]):  # type: ignore[misc]  # without the framework
    """Makes a sandbox for each session. The sandbox is detached: another process can resume the session."""

    backend_id = "pyvmm"

    def __init__(self, *, instrumentation: Instrumentation | None = None, dependencies: Any = None) -> None:
        self._instrumentation = instrumentation or Instrumentation()
        self._dependencies = dependencies

    async def create(
        self,
        *,
        snapshot: SnapshotSpec | SnapshotBase | None = None,
        manifest: Manifest | None = None,
        options: PyvmmSandboxClientOptions,
    ) -> SandboxSession:
        """Start a sandbox."""
        manifest = self._validate_manifest_for_create(manifest or Manifest())
        session_id = uuid.uuid4()
        state = PyvmmSandboxSessionState(
            session_id=session_id,
            manifest=manifest,
            snapshot=resolve_snapshot(snapshot, str(session_id)),
            exposed_ports=options.exposed_ports,
            name=_new_name(),
            sandbox=options,
        )
        return self._session(state, await _start(state))

    async def resume(self, state: SandboxSessionState) -> SandboxSession:
        """Continue in the session's sandbox; in a new one, if it has ended."""
        if not isinstance(state, PyvmmSandboxSessionState):
            raise TypeError(f"{type(state).__name__} is no state of a session of pyvmm")
        state.assert_path_grants_rebound()
        places = {name: state.sandbox.options[name] for name in ("config", "root") if name in state.sandbox.options}
        try:
            sandbox = await asyncio.to_thread(functools.partial(Sandbox.connect, state.name, **places))
        except (SandboxNotFound, SandboxGone):
            state.name = _new_name()
            state.workspace_root_ready = False
            return self._session(state, await _start(state))
        return self._session(state, sandbox, preserved=True)

    async def delete(self, session: SandboxSession) -> SandboxSession:
        """End the sandbox of a session."""
        if not isinstance(session._inner, PyvmmSandboxSession):
            raise TypeError(f"{type(session._inner).__name__} is no session of pyvmm")
        await session._inner.kill()
        return session

    def deserialize_session_state(self, payload: dict[str, object]) -> SandboxSessionState:
        """See the base class."""
        return self._deserialize_session_state_payload(payload, PyvmmSandboxSessionState)

    def _session(self, state: PyvmmSandboxSessionState, sandbox: Sandbox, *, preserved: bool = False) -> SandboxSession:
        made = PyvmmSandboxSession(state, sandbox)
        made._set_start_state_preserved(preserved)
        return self._wrap_session(made, instrumentation=self._instrumentation)


def _new_name() -> str:
    return f"openai-agents-{uuid.uuid4().hex}"


async def _start(state: PyvmmSandboxSessionState) -> Sandbox:
    wanted = state.sandbox
    options = {"timeout": wanted.timeout, **wanted.options, "name": state.name, "detach": True}
    return (await AsyncSandbox.create(wanted.image, **options))._sandbox


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of the sandbox by the framework's names."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WorkspaceReadNotFoundError(path=path, cause=error) from error
    except (VmmError, OSError) as error:
        raise WorkspaceArchiveReadError(path=path, cause=error) from error


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (VmmError, OSError) as error:
        raise WorkspaceArchiveWriteError(path=path, cause=error) from error
