"""The job of examples/server/slurm, on a Slurm cluster of this host.

A program that writes down where it runs and with what stands in for Ray and the server, since the nodes share the ports
of this host.  What they do is tested in test_ray.py.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.slurm import NODES, Slurm

pytestmark = [
    pytest.mark.long,  # a cluster takes 10 s to start
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons run as root"),
]
SCRIPT = Path(__file__).parents[2] / "examples" / "server" / "slurm" / "nodes.sbatch"
_STAND_IN = """\
#!/bin/sh
[ "$1" = health-check ] && exec test -e {folder}/head
echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" >>{folder}/tokens
[ "$3" = --head ] && : >{folder}/head
trap 'echo "$SLURMD_NODENAME ${{0##*/}}" >>{folder}/ended; exit 0' TERM
echo "$SLURMD_NODENAME ${{0##*/}} $*" >>{folder}/begun
sleep 1000 &
wait
"""


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    with tempfile.TemporaryDirectory(prefix="sl-") as folder:
        cluster = Slurm(Path(folder))
        try:
            yield cluster
        finally:
            cluster.close()


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines()) if path.exists() else []


def test_a_server_on_the_nodes_of_a_job(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("ray", "pyvmm"):
        (tmp_path / "bin" / name).write_text(_STAND_IN.format(folder=tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)
    slurm.environment |= {"PYVMM_VENV": str(tmp_path), "PYVMM_KEYS": "/keys", "PYVMM_STATE": "/state"}
    output = f"--output={tmp_path}/output"
    submitted = slurm.run("sbatch", "--parsable", "--nodes=3", "--mem=4096", output, str(SCRIPT))
    assert submitted.returncode == 0, submitted.stderr
    slurm.until(lambda: len(lines(tmp_path / "begun")) == 4)
    resources = "--resources=" + json.dumps({"pyvmm_memory": 2048})
    assert lines(tmp_path / "begun") == [
        f"{NODES[0]} pyvmm serve --engine ray --host 0.0.0.0 --keys /keys --state /state",
        f"{NODES[0]} ray start --block --head --include-dashboard=false --port=6379 {resources}",
        *(f"{name} ray start --block --address={NODES[0]}:6379 {resources}" for name in NODES[1:]),
    ]
    (token,) = {*lines(tmp_path / "tokens")}  # the same for all parts of the job
    assert re.fullmatch("token [0-9a-f]{64}", token)
    slurm.run("scancel", submitted.stdout.strip())
    slurm.until(lambda: len(lines(tmp_path / "ended")) == 4)


def test_what_is_missing_is_named(slurm: Slurm, tmp_path: Path) -> None:
    output = tmp_path / "output"
    slurm.environment.pop("PYVMM_VENV", None)
    assert slurm.run("sbatch", "--wait", "--nodes=1", f"--output={output}", str(SCRIPT)).returncode != 0
    assert "PYVMM_VENV: is not set: name the environment" in output.read_text()
