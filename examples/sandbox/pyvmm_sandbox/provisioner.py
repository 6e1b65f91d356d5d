"""A provisioner of Jupyter's: each kernel runs in a sandbox of its own, as the kernel specification describes it."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Dict, Float, List, Unicode

from pyvmm_sandbox.commands import EXIT
from pyvmm_sandbox.errors import UsageError
from pyvmm_sandbox.sandbox import Sandbox
from vmm import VmmError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_client.connect import KernelConnectionInfo

    from pyvmm_sandbox.commands import Command
    from pyvmm_sandbox.ports import Forward

_CHANNELS = ("shell", "iopub", "stdin", "hb", "control")
_FIRST_PORT = 48900
"""Of the sandbox's loopback interface; each kernel has a sandbox to itself."""


class SandboxProvisioner(KernelProvisionerBase):
    """Kernel specifications name it ``pyvmm-provisioner``, and set its traits by ``config``.

    A restart of the kernel keeps the sandbox with its files; the end of the kernel ends it.
    """

    image = Unicode(help="name of an image, or a folder with a root file system").tag(config=True)
    python = Unicode("python3", help="interpreter in the image").tag(config=True)
    memory = Unicode("1G", help="limit for the memory").tag(config=True)
    cpus = Float(1.0, help="how many it may use").tag(config=True)
    network = Unicode("none", help="none or user").tag(config=True)
    volumes = List(Unicode(), help="directories of the host, as DIR:PATH[:ro]").tag(config=True)
    cwd = Unicode(help="where the kernel starts; empty: as the image says").tag(config=True)
    options = Dict(help="other options of pyvmm_sandbox.Sandbox").tag(config=True)

    box: Sandbox | None = None
    command: Command | None = None
    status: int | None = None
    forwards: dict[str, Forward]

    @property
    def has_process(self) -> bool:
        return self.command is not None

    async def poll(self) -> int | None:
        return self.status if self.command is not None else 0

    async def wait(self) -> int | None:
        command = self.command
        if command is not None:
            await asyncio.to_thread(self._reader.join)
            await asyncio.to_thread(command.close)
            self.command = None
        return self.status

    async def send_signal(self, signum: int) -> None:
        if signum == signal.SIGKILL:
            await self.kill()
        elif signum == 0:
            await self.poll()
        else:
            await self._tell(lambda command: command.send_signal(signum))

    async def kill(self, restart: bool = False) -> None:
        await self._tell(lambda command: command.kill())

    async def terminate(self, restart: bool = False) -> None:
        await self._tell(lambda command: command.send_signal(signal.SIGTERM))

    async def _tell(self, call: Callable[[Command], object]) -> None:
        if self.command is not None and self.status is None:
            try:
                await asyncio.to_thread(call, self.command)
            except VmmError:
                pass  # it has ended

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Start the sandbox, and lead the ports of the connection into it."""
        if not self.image:
            name = self.kernel_spec.display_name
            raise UsageError(
                f"kernel {name!r} names no image", hint='"config": {"image": "python:3.13"} in kernel.json'
            )
        manager: Any = self.parent
        if self.box is None or not self.box.is_running:
            await self._start()
        for channel, forward in self.forwards.items():
            setattr(manager, f"{channel}_port", forward.port)
        manager.write_connection_file()
        self.connection_info = manager.get_connection_info()
        return await super().pre_launch(cmd=self._words(), **kwargs)

    async def _start(self) -> None:
        limits: dict[str, Any] = {
            "memory": self.memory,
            "cpus": self.cpus,
            "network": self.network,
            "volumes": self.volumes,
        }
        kept = {name: forward.port for name, forward in getattr(self, "forwards", {}).items()}
        await self._end()
        options = {"timeout": None, **limits, **self.options}
        box = self.box = await asyncio.to_thread(functools.partial(Sandbox, self.image, **options))
        try:
            self.forwards = {
                name: box.ports.forward(_FIRST_PORT + at, host_port=kept.get(name, 0))
                for at, name in enumerate(_CHANNELS)
            }
        except BaseException:
            await self._end()
            raise

    def _words(self) -> list[str]:
        """Of the kernel; the interpreter of the host is not that of the image."""
        words = [word.replace("{connection_file}", self._file) for word in self.kernel_spec.argv]
        if os.path.basename(words[0]).startswith("python"):
            words[0] = self.python
        return words

    @property
    def _file(self) -> str:
        return f"/tmp/kernel-{self.kernel_id}.json"

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Of *kwargs*, the environment and directory are the host's, and stay there."""
        box = self.box
        assert box is not None
        inside = {f"{name}_port": _FIRST_PORT + at for at, name in enumerate(_CHANNELS)}
        known = {name: _text(value) for name, value in self.connection_info.items()}
        connection = {**known, **inside, "ip": "127.0.0.1", "transport": "tcp"}
        await asyncio.to_thread(box.files.write, self._file, json.dumps(connection), mode=0o600)
        self.status = None
        self.command = await asyncio.to_thread(box.popen, cmd, env=self.kernel_spec.env, cwd=self.cwd)
        self._reader = threading.Thread(target=self._read, args=(self.command,), name="kernel", daemon=True)
        self._reader.start()
        return self.connection_info

    def _read(self, command: Command) -> None:
        """Of a thread: what the kernel prints outside of its cells, until it ends."""
        try:
            for event in command:
                if event.kind == EXIT:
                    self.status = event.exit_code
                elif event.text.strip():
                    self.log.debug("kernel: %s", event.text.rstrip())
        except (VmmError, OSError):
            pass  # the sandbox has ended
        if self.status is None:
            self.status = 128 + signal.SIGKILL

    async def cleanup(self, restart: bool = False) -> None:
        if not restart:
            await self._end()

    async def _end(self) -> None:
        if self.box is not None:
            await asyncio.to_thread(self.box.kill)
            self.box = None


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
