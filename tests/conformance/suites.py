"""The suites by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.conformance import cri, oci, podman, runtimes
from tests.conformance.cri.stage import Stage as CriStage
from tests.conformance.oci.box import Stage
from tests.conformance.podman.stage import Stage as PodmanStage
from tests.conformance.suite import Scene


class Suite(NamedTuple):
    """
    :param title: of its table
    :param stage: makes what a scene is played on, for a runtime's name and a folder that is there
    :param runtimes: the names of those that it can be played with
    """

    title: str
    scenes: Sequence[Scene]
    stage: Callable[[str, Path], Any]
    runtimes: Sequence[str]


def _oci_stage(runtime: str, folder: Path) -> Stage:
    return Stage(runtime, runtimes.command(runtime, folder), folder / "oci")


def _podman_stage(runtime: str, folder: Path) -> PodmanStage:
    return PodmanStage(runtime, runtimes.command(runtime, folder), folder / "podman")


def _cri_stage(runtime: str, folder: Path) -> CriStage:
    return CriStage(runtime, folder / "c")


SUITES = {
    "oci": Suite("OCI runtime specification", oci.SCENES, _oci_stage, (*runtimes.ALL, runtimes.SENTRY)),
    "podman": Suite("podman", podman.SCENES, _podman_stage, (runtimes.OURS, *runtimes.REFERENCES, runtimes.SENTRY)),
    "cri": Suite(
        "CRI through containerd", cri.SCENES, _cri_stage, (runtimes.OURS, *runtimes.REFERENCES, runtimes.SENTRY)
    ),
}
