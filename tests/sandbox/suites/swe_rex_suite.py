"""SWE-ReX's own server in our sandbox, and its own client."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swerex.deployment.config import RemoteDeploymentConfig
from swerex.exceptions import CommandTimeoutError, DeploymentNotStartedError, DeploymentStartupError
from swerex.exceptions import NonZeroExitCodeError as NotZero
from swerex.runtime.abstract import BashAction, Command, CreateBashSessionRequest
from swerex.runtime.abstract import ReadFileRequest as Read
from swerex.runtime.abstract import UploadRequest as Upload
from swerex.runtime.abstract import WriteFileRequest as Write

from pyvmm_sandbox.integrations.swe_rex import PyvmmDeployment
from tests.kata import fake_relay
from tests.sandbox.fake_machines import end_programs, fake_machines, options, prepare

SERVER = [sys.executable, "-m", "swerex.server"]
SERVE = """
import sys
from pyvmm_sandbox import Sandbox
from pyvmm_sandbox.integrations.swe_rex import main
from tests.kata import fake_relay
from tests.sandbox.fake_machines import fake_machines
fake_machines()
fake_relay.install()
Sandbox.__init__.__kwdefaults__.update(config=sys.argv[1], root=sys.argv[2], env={"PLACE": sys.argv[3]})
main(sys.argv[4:])
"""


@pytest.fixture
def port() -> int:
    """A free one: such a machine's ports are those of the host."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """For a sandbox, of which nothing is left."""
    fake_machines()
    fake_relay.install()
    prepare(tmp_path)
    yield tmp_path
    end_programs("PLACE", tmp_path)  # which such machines leave
    assert not list((tmp_path / "state").iterdir())


async def use(runtime: Any, place: Path) -> None:
    """What SWE-agent does."""
    await runtime.create_session(CreateBashSessionRequest(startup_timeout=20))
    await runtime.run_in_session(BashAction(command=f"cd {place}; A=b"))
    ran = await runtime.run_in_session(BashAction(command="echo $A; pwd"))
    assert ran.output.split() == ["b", str(place)] and ran.exit_code == 0
    with pytest.raises(NotZero):
        await runtime.run_in_session(BashAction(command="false"))
    ran = await runtime.execute(Command(command="echo out; echo err >&2; exit 3", shell=True))
    assert (ran.stdout, ran.stderr, ran.exit_code) == ("out\n", "err\n", 3)
    with pytest.raises(CommandTimeoutError):
        await runtime.execute(Command(command=["sleep", "60"], timeout=1))
    await runtime.write_file(Write(path=f"{place}/files/a", content="written"))
    await runtime.upload(Upload(source_path=f"{place}/files", target_path=f"{place}/copied"))
    assert (await runtime.read_file(Read(path=f"{place}/copied/a"))).content == "written"


async def test_a_deployment(place: Path, port: int) -> None:
    """From its start to its end."""
    deployment = PyvmmDeployment(
        f"{place}/rootfs", server=SERVER, port=port, env={"PLACE": str(place)}, **options(place)
    )
    with pytest.raises(DeploymentNotStartedError):
        await deployment.is_alive()
    await deployment.start()
    assert await deployment.is_alive()
    await use(deployment.runtime, place)
    assert deployment.sandbox.is_running
    await deployment.stop()
    await deployment.stop()


async def test_a_server_that_fails(place: Path, port: int) -> None:
    """The error has what it printed."""
    deployment = PyvmmDeployment(
        f"{place}/rootfs", server=["sh", "-c", "echo no server; exit 5"], port=port, **options(place)
    )
    with pytest.raises(DeploymentStartupError, match="status 5: no server"):
        await deployment.start()
    silent = PyvmmDeployment(
        f"{place}/rootfs",
        server=["sh", "-c", "exec tail -f /dev/null"],
        startup_timeout=1,
        port=port,
        env={"PLACE": str(place)},
        **options(place),
    )
    with pytest.raises(DeploymentStartupError, match="does not answer"):
        await silent.start()


async def test_a_remote_runtime(place: Path, port: int) -> None:
    """The program prints the configuration of SWE-ReX's own remote deployment."""
    known = options(place)
    command = [sys.executable, "-c", SERVE, known["config"], known["root"], str(place), f"{place}/rootfs"]
    command += ["--port", str(port), "--server", f"{sys.executable} -m swerex.server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as program:
        assert program.stdout is not None
        try:
            lines = [program.stdout.readline().strip().split(": ", 1) for _ in range(5)]
            remote = RemoteDeploymentConfig(**dict(lines)).get_deployment()
            await remote.start()
            await use(remote.runtime, place)
        finally:
            with contextlib.suppress(ProcessLookupError):
                program.send_signal(signal.SIGTERM)
        assert program.wait() == 0
