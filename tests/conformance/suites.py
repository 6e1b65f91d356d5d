"""The suites by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.conformance import oci, runtimes
from tests.conformance.oci.box import Stage
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


SUITES = {"oci": Suite("OCI runtime specification", oci.SCENES, _oci_stage, runtimes.ALL)}
