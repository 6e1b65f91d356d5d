"""Sandboxes as deployments of SWE-ReX: ``SWEEnv(deployment=PyvmmDeployment("IMAGE"), ...)`` of SWE-agent.

``python -m pyvmm_sandbox.integrations.swe_rex IMAGE`` starts one for programs whose configuration has ``type: remote``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import secrets
import shlex
import signal
from typing import TYPE_CHECKING, Any

from swerex.deployment.abstract import AbstractDeployment
from swerex.deployment.hooks.abstract import CombinedDeploymentHook
from swerex.exceptions import DeploymentNotStartedError, DeploymentStartupError
from swerex.runtime.remote import RemoteRuntime
from swerex.utils.log import get_logger

from pyvmm_sandbox import AsyncSandbox, Template
from vmm import VmmError

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from swerex.deployment.hooks.abstract import DeploymentHook
    from swerex.runtime.abstract import IsAliveResponse

    from pyvmm_sandbox import Forward, Sandbox
    from pyvmm_sandbox.aio import AsyncCommand

SERVER = ("swerex-remote",)
LOG = "/tmp/swerex-remote.log"
_CLOSE_S = 10.0


class PyvmmDeployment(AbstractDeployment):  # type: ignore[misc]  # without the framework
    """A sandbox with SWE-ReX's server. The host reaches it without a network of the sandbox.

    :param source: the name of an image that has SWE-ReX, or a folder with a root file system, or a template, of which
        a copy is started
    :param server: the command of the server, without options
    :param port: of the server inside
    :param startup_timeout: seconds until the server has to answer
    :param timeout: seconds that a request for its state may last
    :param options: others of :class:`~pyvmm_sandbox.Sandbox`, or of :meth:`Template.start`
    """

    def __init__(
        self,
        source: str | Template,
        *,
        server: Sequence[str] = SERVER,
        port: int = 8000,
        startup_timeout: float = 60,
        timeout: float = 10,
        logger: logging.Logger | None = None,
        **options: Any,
    ) -> None:
        self.logger = logger or get_logger("rex-deploy")
        self._source = source
        self._server = list(server)
        self._port = port
        self._startup_timeout = startup_timeout
        self._timeout = timeout
        self._options = {"timeout": None, **options}
        self._hooks = CombinedDeploymentHook()
        self._box: AsyncSandbox | None = None
        self._runtime: RemoteRuntime | None = None

    def add_hook(self, hook: DeploymentHook) -> None:
        """See the base class."""
        self._hooks.add_hook(hook)

    @property
    def runtime(self) -> RemoteRuntime:
        """See the base class."""
        if self._runtime is None:
            raise DeploymentNotStartedError
        return self._runtime

    @property
    def sandbox(self) -> Sandbox:
        """For what SWE-ReX does not have: forks, snapshots, statistics."""
        if self._box is None:
            raise DeploymentNotStartedError
        return self._box._sandbox

    async def is_alive(self, *, timeout: float | None = None) -> IsAliveResponse:
        """See the base class."""
        return await self.runtime.is_alive(timeout=timeout)

    async def start(self) -> None:
        """Start the sandbox and its server.

        :raises DeploymentStartupError: the server ends, or does not answer in time
        """
        if self._box is not None:
            return
        self._hooks.on_custom_step("Starting the sandbox")
        if isinstance(self._source, Template):
            self._box = await AsyncSandbox.start(self._source, **self._options)
        else:
            self._box = await AsyncSandbox.create(self._source, **self._options)
        try:
            self._hooks.on_custom_step("Starting the server")
            self._runtime = await self._serve(self._box)
        except BaseException:
            await asyncio.shield(self.stop())
            raise

    async def stop(self) -> None:
        """End the sandbox. A second call does nothing."""
        runtime, self._runtime = self._runtime, None
        box, self._box = self._box, None
        if runtime is not None:
            with contextlib.suppress(Exception):  # it ends in any case
                await asyncio.wait_for(runtime.close(), _CLOSE_S)
        if box is not None:
            await box.kill()

    async def _serve(self, box: AsyncSandbox) -> RemoteRuntime:
        token = secrets.token_urlsafe()
        words = [*self._server, "--host", "127.0.0.1", "--port", str(self._port), "--auth-token", token]
        server = await box.popen(f"exec {shlex.join(words)} >{LOG} 2>&1")
        server.close_stdin()
        forward: Forward = await box.ports.forward(self._port)
        runtime = RemoteRuntime(
            auth_token=token,
            host=f"http://{forward.host}",
            port=forward.port,
            timeout=self._timeout,
            logger=self.logger,
        )
        await self._wait(box, server, runtime)
        return runtime

    async def _wait(self, box: AsyncSandbox, server: AsyncCommand, runtime: RemoteRuntime) -> None:
        answering = asyncio.create_task(runtime.wait_until_alive(timeout=self._startup_timeout))
        ending = asyncio.create_task(server.wait())
        try:
            await asyncio.wait({answering, ending}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done() or answering.exception() is not None:
                state = f"ended with status {ending.result()}" if ending.done() else "does not answer"
                raise DeploymentStartupError(f"{shlex.join(self._server)} {state}: {await _printed(box)}")
        finally:
            answering.cancel()
            ending.cancel()
            await asyncio.wait({answering})


async def _printed(box: AsyncSandbox) -> str:
    try:
        return (await box.run(["tail", "-c", "1000", LOG])).stdout.strip()
    except VmmError as error:
        return str(error)


async def serve(deployment: PyvmmDeployment) -> None:
    """Start a sandbox, print how SWE-ReX's ``type: remote`` reaches it, and end it at a signal."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    ending, starting = asyncio.create_task(ended.wait()), asyncio.create_task(deployment.start())
    await asyncio.wait({ending, starting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return
    starting.result()
    try:
        config = deployment.runtime._config
        host, port, token = config.host, config.port, config.auth_token
        print(f"type: remote\nhost: {host}\nport: {port}\nauth_token: {token}\ntimeout: {config.timeout}", flush=True)
        await ended.wait()
    finally:
        await deployment.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """The program; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m pyvmm_sandbox.integrations.swe_rex", description=serve.__doc__)
    parser.add_argument("image", help="the name of an image that has SWE-ReX, or a folder with a root file system")
    parser.add_argument("-m", "--memory", default="512M", help="of the sandbox (%(default)s)")
    parser.add_argument("--cpus", type=float, default=1.0, help="of the sandbox (%(default)g)")
    parser.add_argument("--network", default="none", choices=("none", "user"), help="of the sandbox (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="of the server inside (%(default)s)")
    parser.add_argument("--server", default=SERVER[0], help="the command of the server (%(default)s)")
    given = parser.parse_args(argv)
    make = functools.partial(PyvmmDeployment, given.image, server=shlex.split(given.server), port=given.port)
    try:
        asyncio.run(serve(make(memory=given.memory, cpus=given.cpus, network=given.network)))
    except (VmmError, OSError, DeploymentStartupError) as error:
        hint = getattr(error, "hint", "")
        parser.exit(1, f"{parser.prog}: {error}\n" + (f"  hint: {hint}\n" if hint else ""))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
