"""The configuration that the guide tells people to use."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

from pyvmm_kata.config.settings import PREFIX
from tests.kata.containerd import SEARCH, need

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
