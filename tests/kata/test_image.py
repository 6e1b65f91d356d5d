"""The image of the guest: small, and the same bytes wherever and whenever it is made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pyvmm_kata.config.settings import PREFIX
from tests.kata.containerd import SEARCH, need

BUILD = Path(__file__).parents[2] / "examples" / "kata" / "image" / "build.py"
TOOLS = ("crun", "mkfs.erofs", "nanopb_generator")

pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") for tool in TOOLS),
    reason=f"needs {', '.join(TOOLS)}: tools/deps.py kata",
)


def build(cache: Path) -> Path:
    done = subprocess.run(
        [sys.executable, str(BUILD)],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return Path(done.stdout.strip())


def test_two_builds_are_the_same_bytes_and_a_third_is_found(tmp_path: Path) -> None:
    first, second = (build(tmp_path / name) for name in ("a", "another-place"))
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size <= 8 << 20
    before = first.stat().st_mtime_ns
    assert build(tmp_path / "a") == first and first.stat().st_mtime_ns == before


# -- the configuration that the guide tells people to use ------------------------------------------------------------


FOLDER = Path(__file__).resolve().parents[2] / "examples" / "kata" / "kubernetes"
CRI = "io.containerd.grpc.v1.cri"


def test_containerd_understands_its_configuration() -> None:
    need("containerd")
    command = ["containerd", "-c", str(FOLDER / "containerd.toml"), "config", "dump"]
    dumped = subprocess.run(command, env={"PATH": SEARCH}, capture_output=True, text=True, check=True).stdout
    section = tomllib.loads(dumped)["plugins"][CRI]["containerd"]
    types = {name: runtime["runtime_type"] for name, runtime in section["runtimes"].items()}
    assert section["default_runtime_name"] == "runc"
    assert types == {
        "runc": "io.containerd.runc.v2",
        "pyvmm": "io.containerd.pyvmm.v2",
        "runsc": "io.containerd.runsc.v1",
    }


def test_pods_may_choose_their_size_and_nothing_else() -> None:
    section = tomllib.loads((FOLDER / "containerd.toml").read_text())["plugins"][CRI]["containerd"]
    allowed = section["runtimes"]["pyvmm"]["pod_annotations"]
    assert sorted(allowed) == [f"{PREFIX}default_memory", f"{PREFIX}default_vcpus"]


def test_classes_name_runtimes_that_are_configured() -> None:
    runtimes = tomllib.loads((FOLDER / "containerd.toml").read_text())["plugins"][CRI]["containerd"]["runtimes"]
    classes = (FOLDER / "runtimeclasses.yaml").read_text()
    handlers = {line.split()[1] for line in classes.splitlines() if line.startswith("handler:")}
    names = {line.split()[1] for line in classes.splitlines() if line.startswith("  name:")}
    used = {
        line.split()[1]
        for line in (FOLDER / "mixed.yaml").read_text().splitlines()
        if line.startswith("  runtimeClassName:")
    }
    assert handlers <= set(runtimes)
    assert used <= names
