"""Commands of a session of openai-agents that go on between calls: ``exec_command`` and ``write_stdin``."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from agents.sandbox.errors import ExecTransportError
from agents.sandbox.session import BaseSandboxSession
from agents.sandbox.session.pty_output import collect_pty_output
from agents.sandbox.session.pty_types import (
    PTY_PROCESSES_MAX,
    PtyExecUpdate,
    allocate_pty_process_id,
    clamp_pty_yield_time_ms,
    process_id_to_prune_from_meta,
    resolve_pty_write_yield_time_ms,
)

from vmm import VmmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agents.sandbox.types import User

    from pyvmm_sandbox import AsyncSandbox
    from pyvmm_sandbox.aio import AsyncCommand

UNREAD_MOST = 1 << 20
"""Bytes of output that wait for the agent; the oldest are dropped."""
_START_MS, _WRITE_MS = 10_000, 250
_LOST = 128 + signal.SIGKILL


class Process:
    """A command whose output a task collects.

    :ivar used: when an agent has last called, see :func:`time.monotonic`
    """

    def __init__(self, command: AsyncCommand, tty: bool, timeout: float | None) -> None:
        self.command = command
        self.tty = tty
        self.used = time.monotonic()
        self.exit_code = _LOST
        self.ended = asyncio.Event()
        self.chunks: deque[bytes] = deque()
        self.lock = asyncio.Lock()
        self.printed = asyncio.Event()
        if timeout is not None:
            asyncio.get_running_loop().call_later(timeout, self._kill)
        self._task = asyncio.create_task(self._collect())

    async def end(self) -> None:
        """Kill it, if it still runs."""
        self._kill()
        await self._task

    def _kill(self) -> None:
        if not self.ended.is_set():
            with contextlib.suppress(VmmError, OSError):
                self.command.kill()

    async def _collect(self) -> None:
        try:
            async with self.command:
                async for event in self.command:
                    if event.kind == "exit":
                        self.exit_code = event.exit_code
                    else:
                        await self._add(event.data)
        except (VmmError, OSError):
            pass  # the sandbox has ended
        finally:
            self.ended.set()
            self.printed.set()

    async def _add(self, data: bytes) -> None:
        async with self.lock:
            self.chunks.append(data)
            while sum(map(len, self.chunks)) > UNREAD_MOST:
                self.chunks.popleft()
        self.printed.set()


class TerminalSession(BaseSandboxSession):  # type: ignore[misc]  # without the framework
    """The part of a session that runs such commands."""

    _twin: AsyncSandbox
    _processes: dict[int, Process]

    async def _how(self, command: Sequence[str | Path]) -> tuple[list[str], dict[str, Any]]:
        """The words of a command, and the options with which it runs."""
        raise NotImplementedError

    def supports_pty(self) -> bool:
        """See the base class."""
        return True

    async def pty_exec_start(
        self,
        *command: str | Path,
        timeout: float | None = None,
        shell: bool | list[str] = True,
        user: str | User | None = None,
        tty: bool = False,
        yield_time_s: float | None = None,
        max_output_tokens: int | None = None,
    ) -> PtyExecUpdate:
        """Start a command, and return what it prints in some seconds. It goes on if it has not ended by then."""
        await self._make_room()
        try:
            words, options = await self._how(self._prepare_exec_command(*command, shell=shell, user=user))
            started = await self._twin.popen(words, tty=tty, **options)
        except (VmmError, OSError) as error:
            raise ExecTransportError(command=command, message=str(error), cause=error, retryable=False) from error
        if not tty:
            started.close_stdin()
        number = allocate_pty_process_id(set(self._processes))
        self._processes[number] = Process(started, tty, timeout)
        wait = _START_MS if yield_time_s is None else int(yield_time_s * 1000)
        return await self._update(number, clamp_pty_yield_time_ms(wait), max_output_tokens)

    async def pty_write_stdin(
        self,
        *,
        session_id: int,
        chars: str,
        yield_time_s: float | None = None,
        max_output_tokens: int | None = None,
    ) -> PtyExecUpdate:
        """Type into the terminal of a command, and return what it prints then."""
        process: Process = self._resolve_pty_session_entry(pty_processes=self._processes, session_id=session_id)
        if chars:
            if not process.tty:
                raise RuntimeError("the command has no terminal (start it with tty=true)")
            with contextlib.suppress(BrokenPipeError):  # it has ended, as the answer reports
                await process.command.write(chars)
        process.used = time.monotonic()
        wait = _WRITE_MS if yield_time_s is None else int(yield_time_s * 1000)
        wait = resolve_pty_write_yield_time_ms(yield_time_ms=wait, input_empty=not chars)
        return await self._update(session_id, wait, max_output_tokens)

    async def pty_terminate_all(self) -> None:
        """Kill all of them."""
        ended, self._processes = list(self._processes.values()), {}
        await asyncio.gather(*(each.end() for each in ended))

    async def _update(self, number: int, wait_ms: int, most_tokens: int | None) -> PtyExecUpdate:
        process = self._processes[number]
        output, tokens, ended = await collect_pty_output(
            output_chunks=process.chunks,
            output_lock=process.lock,
            output_notify=process.printed,
            is_done=process.ended.is_set,
            yield_time_ms=wait_ms,
            max_output_tokens=most_tokens,
        )
        if ended:
            self._processes.pop(number, None)
        return PtyExecUpdate(
            process_id=None if ended else number,
            output=output,
            exit_code=process.exit_code if ended else None,
            original_token_count=tokens,
        )

    async def _make_room(self) -> None:
        if len(self._processes) < PTY_PROCESSES_MAX:
            return
        known = [(number, each.used, each.ended.is_set()) for number, each in self._processes.items()]
        number = process_id_to_prune_from_meta(known)
        if number is not None:
            await self._processes.pop(number).end()
