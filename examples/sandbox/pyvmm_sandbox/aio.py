"""The same for programs that use asyncio: each method that waits is a coroutine of the same name.

A blocking call runs in a thread, so that many sandboxes work at a time.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from pyvmm_sandbox.commands import Command, finish
from pyvmm_sandbox.files import ENTRIES_MOST, Watch
from pyvmm_sandbox.pool import SandboxPool
from pyvmm_sandbox.ports import Forward
from pyvmm_sandbox.sandbox import Sandbox

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from pyvmm_sandbox.code import Context, Contexts, Execution
    from pyvmm_sandbox.commands import Event, Result
    from pyvmm_sandbox.connecting import Rules
    from pyvmm_sandbox.egress.client import Refusal, Traffic
    from pyvmm_sandbox.egress.rules import Network
    from pyvmm_sandbox.files import Change, Entry, Files
    from pyvmm_sandbox.ports import Ports
    from pyvmm_sandbox.records import SandboxInfo
    from pyvmm_sandbox.sandbox import Infos
    from pyvmm_sandbox.stats import Stats
    from pyvmm_sandbox.template import Template


Result_ = TypeVar("Result_")


class AsyncSandbox:
    """See :class:`~pyvmm_sandbox.sandbox.Sandbox`, whose arguments :meth:`create` takes.

    >>> async with await AsyncSandbox.create("python:3.13-slim") as box:    # doctest: +SKIP
    ...     print((await box.run("python3 -c 'print(6*7)'")).stdout)
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.name = sandbox.name
        self.isolation = sandbox.isolation
        self.network = AsyncRules(sandbox.network)
        self.files = AsyncFiles(sandbox.files)
        self.ports = AsyncPorts(sandbox.ports)

    @classmethod
    async def create(cls, image: str, **options: Any) -> AsyncSandbox:
        """See :class:`~pyvmm_sandbox.sandbox.Sandbox`."""
        return cls(await _made(Sandbox.kill, Sandbox, image, **options))

    @classmethod
    async def connect(cls, name: str, **options: Any) -> AsyncSandbox:
        """See :meth:`Sandbox.connect`."""
        return cls(await _thread(Sandbox.connect, name, **options))

    @classmethod
    async def start(cls, template: Template, **options: Any) -> AsyncSandbox:
        """See :meth:`Template.start`."""
        return cls(await _made(Sandbox.kill, template.start, **options))

    async def run(self, command: str | Sequence[str], **options: Any) -> Result:
        """See :meth:`Sandbox.run`; *on_stdout* and *on_stderr* are called in the event loop.

        The command is killed if the task is cancelled.
        """
        loop = asyncio.get_running_loop()
        for name in ("on_stdout", "on_stderr"):
            if options.get(name) is not None:
                options[name] = _in(loop, options[name])
        start = {name: options.pop(name) for name in ("env", "cwd", "user") if name in options}
        running = await _made(Command.close, self._sandbox.popen, command, **start)
        reading = _thread(finish, running, command, **options)
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            await asyncio.shield(_thread(running.kill))
            await asyncio.wait([reading])
            raise
        finally:
            await asyncio.shield(_thread(running.close))

    async def popen(self, command: str | Sequence[str], **options: Any) -> AsyncCommand:
        """See :meth:`Sandbox.popen`."""
        return AsyncCommand(await _made(Command.close, self._sandbox.popen, command, **options))

    async def run_code(
        self, code: str, *, context: Context | str | None = None, timeout: float | None = 60, **options: Any
    ) -> Execution:
        """See :meth:`Sandbox.run_code`; the callbacks are called in the event loop.

        The code is interrupted if the task is cancelled.
        """
        from pyvmm_sandbox.code import Running

        loop = asyncio.get_running_loop()
        for name in ("on_stdout", "on_stderr", "on_result"):
            if options.get(name) is not None:
                options[name] = _in(loop, options[name])
        running = Running(**options)
        waiting = _thread(running.run, self._sandbox.contexts, code, context, timeout)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            running.stop()
            await asyncio.wait([waiting])
            waiting.exception()  # it was interrupted
            raise

    @property
    def contexts(self) -> AsyncContexts:
        """See :attr:`Sandbox.contexts`."""
        return AsyncContexts(self._sandbox.contexts)

    async def pause(self) -> None:
        """See :meth:`Sandbox.pause`."""
        await _thread(self._sandbox.pause)

    async def resume(self) -> None:
        """See :meth:`Sandbox.resume`."""
        await _thread(self._sandbox.resume)

    async def stats(self) -> Stats:
        """See :meth:`Sandbox.stats`."""
        return await _thread(self._sandbox.stats)

    async def fork(self, count: int = 1) -> list[AsyncSandbox]:
        """See :meth:`Sandbox.fork`."""
        return [AsyncSandbox(each) for each in await _made(_kill_all, self._sandbox.fork, count)]

    async def suspend(self, folder: str | os.PathLike[str]) -> Template:
        """See :meth:`Sandbox.suspend`."""
        return await _thread(self._sandbox.suspend, folder)

    async def snapshot(self, folder: str | os.PathLike[str]) -> Template:
        """See :meth:`Sandbox.snapshot`."""
        return await _thread(self._sandbox.snapshot, folder)

    def set_timeout(self, seconds: float | None) -> None:
        """See :meth:`Sandbox.set_timeout`."""
        self._sandbox.set_timeout(seconds)

    async def info(self) -> SandboxInfo:
        """See :meth:`Sandbox.info`."""
        return await _thread(self._sandbox.info)

    @property
    def is_running(self) -> bool:
        """See :attr:`Sandbox.is_running`."""
        return self._sandbox.is_running

    async def kill(self) -> None:
        """See :meth:`Sandbox.kill`."""
        await _thread(self._sandbox.kill)

    @staticmethod
    async def list(*, root: str = "") -> Infos:
        """See :meth:`Sandbox.list`."""
        return await _thread(Sandbox.list, root=root)

    async def __aenter__(self) -> AsyncSandbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.kill()


class AsyncSandboxPool:
    """See :class:`~pyvmm_sandbox.pool.SandboxPool`, which has the same arguments.

    >>> async with AsyncSandboxPool("python:3.13-slim", size=2) as pool:    # doctest: +SKIP
    ...     box = await pool.take()
    """

    def __init__(self, source: Template | str, **options: Any) -> None:
        self._pool = SandboxPool(source, **options)
        self.size = self._pool.size

    async def take(self, timeout: float | None = None) -> AsyncSandbox:
        """See :meth:`SandboxPool.take`."""
        return AsyncSandbox(await _made(Sandbox.kill, self._pool.take, timeout))

    @property
    def ready(self) -> int:
        """See :attr:`SandboxPool.ready`."""
        return self._pool.ready

    async def close(self) -> None:
        """See :meth:`SandboxPool.close`."""
        await _thread(self._pool.close)

    async def __aenter__(self) -> AsyncSandboxPool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()


class AsyncCommand:
    """See :class:`~pyvmm_sandbox.commands.Command`."""

    def __init__(self, command: Command) -> None:
        self._command = command

    async def __aiter__(self) -> AsyncIterator[Event]:
        events = iter(self._command)
        while (event := await _thread(next, events, None)) is not None:
            yield event

    async def write(self, data: bytes | str) -> None:
        """See :meth:`Command.write`."""
        await _thread(self._command.write, data)

    def close_stdin(self) -> None:
        """See :meth:`Command.close_stdin`."""
        self._command.close_stdin()

    async def wait(self, timeout: float | None = None) -> int:
        """See :meth:`Command.wait`."""
        return await _thread(self._command.wait, timeout)

    @property
    def pid(self) -> int:
        """See :class:`~pyvmm_sandbox.commands.Command`."""
        return self._command.pid

    def resize(self, rows: int, columns: int) -> None:
        """See :meth:`Command.resize`."""
        self._command.resize(rows, columns)

    def send_signal(self, number: int) -> None:
        """See :meth:`Command.send_signal`."""
        self._command.send_signal(number)

    def kill(self) -> None:
        """See :meth:`Command.kill`."""
        self._command.kill()

    async def __aenter__(self) -> AsyncCommand:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await _thread(self._command.close)


class AsyncFiles:
    """See :class:`~pyvmm_sandbox.files.Files`."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def read(self, path: str, **options: int) -> bytes:
        """See :meth:`Files.read`."""
        return await _thread(self._files.read, path, **options)

    async def read_text(self, path: str, encoding: str = "utf-8", **options: int) -> str:
        """See :meth:`Files.read_text`."""
        return await _thread(self._files.read_text, path, encoding, **options)

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """See :meth:`Files.write`."""
        await _thread(self._files.write, path, data, mode=mode)

    async def entries(self, path: str = "/", *, depth: int = 1, max_entries: int = ENTRIES_MOST) -> list[Entry]:
        """See :meth:`Files.entries`."""
        return await _thread(self._files.entries, path, depth=depth, max_entries=max_entries)

    async def info(self, path: str) -> Entry:
        """See :meth:`Files.info`."""
        return await _thread(self._files.info, path)

    async def exists(self, path: str) -> bool:
        """See :meth:`Files.exists`."""
        return await _thread(self._files.exists, path)

    async def mkdir(self, path: str) -> None:
        """See :meth:`Files.mkdir`."""
        await _thread(self._files.mkdir, path)

    async def move(self, source: str, target: str) -> None:
        """See :meth:`Files.move`."""
        await _thread(self._files.move, source, target)

    async def remove(self, path: str) -> None:
        """See :meth:`Files.remove`."""
        await _thread(self._files.remove, path)

    async def watch(self, path: str, *, deep: bool = False) -> AsyncWatch:
        """See :meth:`Files.watch`."""
        return AsyncWatch(await _made(Watch.close, self._files.watch, path, deep=deep))

    async def upload(self, folder: str | os.PathLike[str], path: str) -> None:
        """See :meth:`Files.upload`."""
        await _thread(self._files.upload, folder, path)

    async def download(self, path: str, folder: str | os.PathLike[str], **options: int) -> None:
        """See :meth:`Files.download`."""
        await _thread(self._files.download, path, folder, **options)

    list = entries


class AsyncContexts:
    """See :class:`~pyvmm_sandbox.code.Contexts`."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts

    async def create(self, *, cwd: str = "", env: Mapping[str, str] | None = None) -> Context:
        """See :meth:`Contexts.create`."""
        return await _thread(self._contexts.create, cwd=cwd, env=env)

    async def entries(self) -> list[Context]:
        """See :meth:`Contexts.entries`."""
        return await _thread(self._contexts.entries)

    async def restart(self, context: Context | str = "default") -> None:
        """See :meth:`Contexts.restart`."""
        await _thread(self._contexts.restart, context)

    async def remove(self, context: Context | str = "default") -> None:
        """See :meth:`Contexts.remove`."""
        await _thread(self._contexts.remove, context)

    list = entries


class AsyncPorts:
    """See :class:`~pyvmm_sandbox.ports.Ports`."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def forward(self, port: int, host: str = "127.0.0.1", host_port: int = 0) -> Forward:
        """See :meth:`Ports.forward`."""
        return await _made(Forward.close, self._ports.forward, port, host, host_port)

    async def connect(self, port: int) -> socket.socket:
        """See :meth:`Ports.connect`; :func:`asyncio.open_connection` accepts the socket."""
        return await _made(socket.socket.close, self._ports.connect, port)

    def close(self) -> None:
        """See :meth:`Ports.close`."""
        self._ports.close()


class AsyncRules:
    """See :class:`~pyvmm_sandbox.connecting.Rules`."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    async def get(self) -> Network:
        """See :meth:`Rules.get`."""
        return await _thread(self._rules.get)

    async def pid(self) -> int:
        """See :meth:`Rules.pid`."""
        return await _thread(self._rules.pid)

    async def update(self, rules: Network) -> None:
        """See :meth:`Rules.update`."""
        await _thread(self._rules.update, rules)

    async def refusals(self) -> list[Refusal]:
        """See :meth:`Rules.refusals`."""
        return await _thread(self._rules.refusals)

    async def traffic(self) -> Traffic:
        """See :meth:`Rules.traffic`."""
        return await _thread(self._rules.traffic)


class AsyncWatch:
    """See :class:`~pyvmm_sandbox.files.Watch`."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    async def __aiter__(self) -> AsyncIterator[Change]:
        changes = iter(self._watch)
        while (change := await _thread(next, changes, None)) is not None:
            yield change

    async def close(self) -> None:
        """End it."""
        await _thread(self._watch.close)

    async def __aenter__(self) -> AsyncWatch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1000, "sandbox")  # they wait for other processes: one for each call


def _thread(call: Callable[..., Result_], *args: Any, **options: Any) -> asyncio.Future[Result_]:
    return asyncio.get_running_loop().run_in_executor(_threads(), functools.partial(call, *args, **options))


async def _made(
    discard: Callable[[Result_], object], make: Callable[..., Result_], *args: Any, **options: Any
) -> Result_:
    """The result of *make*. If the task is cancelled meanwhile, the result is discarded: nobody else knows it."""
    making = _thread(make, *args, **options)
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        discarding = asyncio.ensure_future(_discard(discard, making))
        _discarded.add(discarding)  # it goes on, although the task is cancelled again
        discarding.add_done_callback(_discarded.discard)
        await asyncio.shield(discarding)
        raise


_discarded: set[asyncio.Future[None]] = set()


async def _discard(discard: Callable[[Result_], object], making: asyncio.Future[Result_]) -> None:
    await asyncio.wait([making])
    if making.exception() is None:
        await _thread(discard, making.result())


def _kill_all(sandboxes: list[Sandbox]) -> None:
    for each in sandboxes:
        each.kill()


def _in(loop: asyncio.AbstractEventLoop, callback: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda value: loop.call_soon_threadsafe(callback, value)
