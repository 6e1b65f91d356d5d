"""Trials of Harbor in our sandboxes, by its own command and its agent that runs a task's solution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harbor.cli.main import app
from harbor.models.task.config import EnvironmentConfig, NetworkMode, NetworkPolicy
from harbor.models.trial.paths import TrialPaths
from typer.testing import CliRunner

from pyvmm_sandbox.errors import CommandTimeout, UsageError
from pyvmm_sandbox.integrations import harbor
from pyvmm_sandbox.integrations.harbor import PyvmmEnvironment
from tests.sandbox.rooted_machines import prepare, rooted_machines

TASK = """\
schema_version = "1.4"
[metadata]
[verifier]
timeout_sec = 120.0
[agent]
timeout_sec = 120.0
[environment]
docker_image = "{image}"
workdir = "/app"
network_mode = "no-network"
"""


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder for sandboxes, each of which has files of its own."""
    rooted_machines(own_programs=True)
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # otherwise it downloads one
    monkeypatch.setattr(harbor, "_PREPARED", harbor._Prepared())
    return prepare(tmp_path)


def write(path: Path, content: str, mode: int = 0o755) -> None:
    """A file with its directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)


def test_trials_are_forks_of_one_machine(image: str, tmp_path: Path) -> None:
    """Its set-up runs once, and no trial sees what another has done."""
    task = tmp_path / "task"
    write(task / "task.toml", TASK.format(image=image))
    write(task / "instruction.md", "write the number of lines of /prepared to /app/answer")
    write(task / "environment" / "data.txt", "of the task\n")
    write(task / "solution" / "solve.sh", "#!/bin/bash\ncat /prepared data.txt >> /app/answer\n")
    write(
        task / "tests" / "test.sh",
        '#!/bin/bash\n[ "$(cat /app/answer)" = "once\nof the task" ] && echo 1 > /logs/verifier/reward.txt\n'
        "[ -e /logs/verifier/reward.txt ] || echo 0 > /logs/verifier/reward.txt\n",
    )
    words = f"run --path {task} --agent oracle --jobs-dir {tmp_path}/jobs --job-name one -k 3 -n 2 --yes"
    words += ' --env pyvmm_sandbox.integrations.harbor:PyvmmEnvironment --ek setup=["echo&once&>>&/prepared"]'
    ran = CliRunner().invoke(app, [word.replace("&", " ") for word in words.split()])
    assert ran.exit_code == 0, ran.output
    results = [json.loads(each.read_text()) for each in (tmp_path / "jobs" / "one").glob("*/result.json")]
    assert [each["verifier_result"]["rewards"] for each in results] == [{"reward": 1.0}] * 3, results
    assert Path(image, "prepared").read_text() == "once\n"


def environment(tmp_path: Path, image: str, policy: NetworkPolicy | None = None, **options: Any) -> PyvmmEnvironment:
    """As a trial makes one."""
    (tmp_path / "environment").mkdir(exist_ok=True)
    return PyvmmEnvironment(
        environment_dir=tmp_path / "environment",
        environment_name="one",
        session_id="one__env",
        trial_paths=TrialPaths(tmp_path / "trial"),
        task_env_config=EnvironmentConfig(docker_image=image, env={"A": "task"}, cpus=0.5, memory_mb=128),
        network_policy=policy or NetworkPolicy(network_mode=NetworkMode.NO_NETWORK),
        **options,
    )


async def test_commands_and_files(image: str, tmp_path: Path) -> None:
    """As agents and verifiers use them."""
    made = environment(tmp_path, image, fork=False)
    await made.start(False)
    ran = await made.exec("set -o pipefail; echo $A$B; echo err >&2; exit 3", env={"B": "b"})
    assert (ran.stdout, ran.stderr, ran.return_code) == ("taskb\n", "err\n", 3)
    assert (await made.exec("id -u", user="nobody", cwd="/usr")).stdout == "65534\n"
    with made.with_default_user(1):
        assert (await made.exec("id -u", cwd="/usr")).stdout == "1\n"
    with pytest.raises(CommandTimeout):
        await made.exec("sleep 60", timeout_sec=1)
    write(tmp_path / "up" / "deep" / "run.sh", "#!/bin/sh\necho ran\n")
    await made.upload_dir(tmp_path / "up", "/up")
    await made.upload_file(tmp_path / "up" / "deep" / "run.sh", "/other/run.sh")
    assert (await made.exec("/up/deep/run.sh; /other/run.sh")).stdout == "ran\nran\n"
    await made.download_dir("/up", tmp_path / "down")
    await made.download_file("/other/run.sh", tmp_path / "one" / "run.sh")
    for name in ("down/deep/run.sh", "one/run.sh"):
        assert (tmp_path / name).read_text() == "#!/bin/sh\necho ran\n"
    assert await made.is_dir("/up") and not await made.is_file("/up")
    await made.stop(True)
    await made.stop(True)
    assert not list((tmp_path / "state").iterdir())


def test_tasks_that_it_cannot_run(image: str, tmp_path: Path) -> None:
    """Are errors before anything starts."""
    write(tmp_path / "environment" / "docker-compose.yaml", "services: {}")
    with pytest.raises(UsageError, match="Compose"):
        environment(tmp_path, image)
    (tmp_path / "environment" / "docker-compose.yaml").unlink()
    with pytest.raises(Exception, match="allowlist"):
        environment(tmp_path, image, NetworkPolicy(network_mode=NetworkMode.ALLOWLIST, allowed_hosts=["a.org"]))
    with pytest.raises(ValueError, match="Unknown option 'images'"):
        environment(tmp_path, image, images="")
    with pytest.raises(FileNotFoundError, match="docker_image"):
        environment(tmp_path, "")
