"""One more container in a pod that runs: the shim's service for pyvmm, as containerd calls it; runsc's commands.

Debian has no containerd shim of gVisor's, so that runsc's figure is that of its commands alone, which such a shim runs.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

from tests.bench.boot import say
from tests.bench.child import ENVIRONMENT, Child, ChildError

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENT = "/bench/pod_client.py"
TIMEOUT = 600.0
ANNOTATION = "io.kubernetes.cri."


def cri_annotations(kind: str) -> dict[str, str]:
    """What CRI says of a pod's sandbox, or of a `container` in it, to both runtimes."""
    return {f"{ANNOTATION}container-type": kind, f"{ANNOTATION}sandbox-id": "pod"}


def with_shim(python: str, shim: str, config: str, bundles: dict[str, str], turns: int) -> list[dict[str, int]]:
    """Of each container `ns` and `command_ns`, see pod_client.py."""
    wanted = {"shim": shim, "config": config, "turns": turns}
    wanted |= {"sandbox": bundles["sandbox"], "container": bundles["container"]}
    with Child([python, "-S", CLIENT, json.dumps(wanted)], {**ENVIRONMENT, "PYTHONPATH": site_of(python)}) as child:
        if child.finish(TIMEOUT):
            raise ChildError(f"ended with {child.status}\n{child.last_words()}")
        runs: list[dict[str, int]] = json.loads(child.output)
        return runs


def site_of(python: str) -> str:
    """Where the environment of this interpreter keeps packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def with_commands(command: Sequence[str], bundles: dict[str, str], turns: int) -> list[dict[str, int]]:
    """Of each container `ns`: create, start, wait, delete."""

    def call(*words: str) -> None:
        # Its streams must not be pipes of ours: they would be open for as long as the container runs
        subprocess.run([*command, *words], check=True, stdin=-3, stdout=-3, stderr=-3, timeout=TIMEOUT, env=ENVIRONMENT)

    def run_container(name: str) -> dict[str, int]:
        began = time.monotonic_ns()
        call("create", "--bundle", bundles["container"], name)
        call("start", name)
        call("wait", name)
        call("delete", name)
        return {"ns": time.monotonic_ns() - began}

    try:
        call("create", "--bundle", bundles["sandbox"], "pod")
        call("start", "pod")
        return [run_container(f"c{turn}") for turn in range(turns + 1)][1:]
    finally:
        subprocess.run([*command, "delete", "--force", "pod"], capture_output=True, timeout=TIMEOUT)


def report(name: str, runs: list[dict[str, Any]]) -> None:
    """A line of progress."""
    times = ", ".join(f"{run['ns'] / 1e6:.1f}" for run in runs)
    say(f"{name}: one more container {times} M instructions")
