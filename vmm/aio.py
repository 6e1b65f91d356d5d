"""The asyncio version of :class:`~vmm.machine.machine.Machine`, which is at :attr:`AsyncMachine.machine`.

::

    async with AsyncMachine(MachineConfig(BootConfig("vmlinux"))) as vm:
        await vm.start()
        print(await vm.console.readline())
        await vm.shutdown(timeout=10)

Slow calls run on a thread of their own, so the event loop never waits for a guest. Call all methods on the loop that
entered the context.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from vmm.config import MachineConfig
from vmm.errors import ConfigError
from vmm.faststart.record import replace
from vmm.lifecycle import EndEvent, Event
from vmm.machine.interface import AnyMachine, AsyncCalls
from vmm.processes.factory import create_machine, restore_machine
from vmm.virtio.console import ConsoleConfig
from vmm.virtio.device import VirtioDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine.interface import Point

_PIPE = 1 << 16


class AsyncConsole:
    """The guest's console. The guest's writes block while 64 KiB are unread."""

    def __init__(self, machine: AnyMachine, reader: asyncio.StreamReader) -> None:
        self._machine = machine
        self._reader = reader
        self._space = asyncio.Event()
        loop = asyncio.get_running_loop()
        machine.console.space_callback = lambda: _post(loop, self._space.set)

    async def read(self, size: int = -1) -> bytes:
        """Up to *size* bytes of the guest's output; with -1 everything until the machine is closed; empty at the
        end."""
        return await self._reader.read(size)

    async def readline(self) -> bytes:
        """One line, with its end; shorter if the machine is closed."""
        return await self._reader.readline()

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """Everything up to *separator*, which is included.

        :raises asyncio.IncompleteReadError: the machine was closed before it came
        """
        return await self._reader.readuntil(separator)

    async def write(self, data: bytes) -> None:
        """Type *data*; returns when the guest's port has accepted all of it."""
        while data:
            self._space.clear()
            data = data[self._machine.console_input(data) :]
            if data:
                await self._space.wait()


class AsyncMachine(AsyncCalls):
    """A virtual machine for asyncio: an async context manager; leaving it stops the guest and frees everything.

    :param config: as for :class:`~vmm.machine.machine.Machine`; if its console is ``none``, :attr:`console` is made
    :param devices: further virtio devices
    """

    def __init__(self, config: MachineConfig, *, devices: tuple[VirtioDevice, ...] = ()) -> None:
        def make(console: ConsoleConfig) -> AnyMachine:
            return create_machine(replace(config, console=console), devices=devices)

        self._prepare(make, config.console)

    def _prepare(self, make: Callable[[ConsoleConfig], AnyMachine], console: ConsoleConfig) -> None:
        self._make = make
        self._wanted = console
        self._machine: AnyMachine | None = None
        self._console: AsyncConsole | None = None
        self._pipe: list[int] = []
        self._transport: asyncio.BaseTransport | None = None

    @classmethod
    def restore(cls, path: str, *, console: ConsoleConfig | None = None, **options: Any) -> AsyncMachine:
        """As :meth:`Machine.restore`; ``async with`` makes the machine, and :meth:`start` runs it."""

        def make(console: ConsoleConfig) -> AnyMachine:
            return restore_machine(path, console=console, start=False, **options)

        made = cls.__new__(cls)
        made._prepare(make, console or ConsoleConfig())
        return made

    @property
    def machine(self) -> AnyMachine:
        """The machine, inside the context.

        :raises ConfigError: outside of it
        """
        if self._machine is None:
            raise ConfigError("the machine is made by `async with`", code="machine-state")
        return self._machine

    @property
    def console(self) -> AsyncConsole:
        """The guest's output and input.

        :raises ConfigError: the configuration sets another place for its console
        """
        if self._console is None:
            raise ConfigError("the console goes elsewhere", code="console", hint="leave MachineConfig.console out")
        return self._console

    @property
    def state(self) -> str:
        """That of the machine."""
        return self.machine.state

    async def __aenter__(self) -> AsyncMachine:
        if self._machine is not None:
            return self  # of a fork: it runs already
        console = self._wanted
        if console.kind == "none":
            self._pipe = list(os.pipe())
            os.set_blocking(self._pipe[0], False)
            console = replace(console, kind="fd", fd=self._pipe[1], drop=False)
        try:
            self._machine = await asyncio.to_thread(self._make, console)
            if self._pipe:
                await self._open_console(self._machine)
        except BaseException:
            await self.close()
            raise
        return self

    async def _open_console(self, machine: AnyMachine) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_PIPE)
        source = os.fdopen(self._pipe[0], "rb", buffering=0)
        self._pipe[0] = -1  # the transport's from here on
        self._transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
        self._console = AsyncConsole(machine, reader)

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the guest and free everything.  A second call does nothing."""
        machine = self._machine
        if machine is not None:
            await asyncio.to_thread(machine.close)
        for fd in self._pipe[::-1]:
            if fd >= 0:
                os.close(fd)
        self._pipe = []

    async def start(self) -> None:
        """As :meth:`Machine.start`."""
        await asyncio.to_thread(self.machine.start)

    async def run(self, timeout: float | None = None) -> EndEvent:
        """As :meth:`Machine.run`. If the task is cancelled, the guest is stopped."""
        await self.start()
        end = await self.wait(timeout)
        if end is None:
            self.machine.stop("timeout", f"the guest still ran after {timeout:g} s")
            end = await self.wait()
        assert end is not None
        return end

    async def wait(self, timeout: float | None = None) -> EndEvent | None:
        """As :meth:`Machine.wait`. Cancelling it does not affect the guest."""
        machine, loop = self.machine, asyncio.get_running_loop()
        ended = asyncio.Event()

        def on_event(event: Event | EndEvent) -> None:
            if isinstance(event, EndEvent):
                _post(loop, ended.set)

        forget = machine.listen(on_event)
        try:
            await asyncio.wait_for(ended.wait(), timeout)
        except TimeoutError:
            pass
        finally:
            forget()
        return machine.wait(0)

    async def events(self) -> AsyncIterator[Event | EndEvent]:
        """As :meth:`Machine.events`: from the first ``anext`` on, until the end."""
        machine, loop = self.machine, asyncio.get_running_loop()
        queue: asyncio.Queue[Event | EndEvent] = asyncio.Queue()
        forget = machine.listen(lambda event: _post(loop, queue.put_nowait, event))
        try:
            while True:
                event = await queue.get()
                yield event
                if isinstance(event, EndEvent):
                    return
        finally:
            forget()

    async def fork(
        self, n: int = 1, *, each: Callable[[int], dict[str, Any]] | None = None, **changes: Any
    ) -> list[AsyncMachine]:
        """As :meth:`Machine.fork`: children run; :meth:`close` each of them, or use it as an async context."""
        point = await asyncio.to_thread(self.machine.fork_point, n)
        children: list[AsyncMachine] = []
        try:
            for number in range(n):
                own = {**changes, **(each(number) if each else {})}
                child = self._child(type(self.machine), point, own.pop("console", None) or ConsoleConfig(), own)
                await child.__aenter__()
                children.append(child)
                await child.start()
        except BaseException:
            for child in children:
                await child.close()
            raise
        finally:
            point.close()
        return children

    @classmethod
    def _child(
        cls, kind: type[AnyMachine], point: Point, console: ConsoleConfig, changes: dict[str, Any]
    ) -> AsyncMachine:
        def make(console: ConsoleConfig) -> AnyMachine:
            return kind.of_fork(point, {**changes, "console": console}, start=False)

        made = cls.__new__(cls)
        made._prepare(make, console)
        return made

    async def shutdown(self, timeout: float | None = None) -> EndEvent | None:
        """As :meth:`Machine.shutdown`: press the power button, and wait."""
        self.machine.press_power_button()
        return await self.wait(timeout)

    def stop(self, detail: str = "") -> None:
        """As :meth:`Machine.stop`."""
        self.machine.stop(detail=detail)


def _post(loop: asyncio.AbstractEventLoop, call: Any, *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        pass  # the loop is closed: nothing waits for it
