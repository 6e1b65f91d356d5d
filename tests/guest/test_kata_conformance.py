"""Marked scenes of tests/conformance: a case that crun and runc pass has to pass, or be a known difference."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import runtimes
from tests.conformance.inside import chosen, play
from tests.conformance.report import Row, detail
from tests.conformance.report import rows as judge_all
from tests.conformance.suite import Result, Scene
from tests.conformance.suites import SUITES

SCENES = [
    pytest.param(suite, scene, id=f"{suite}-{scene.name}")
    for suite in SUITES
    for scene in chosen(suite, "", third=True)
]


class Stages:
    """Stages of suites and runtimes, each made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stages: dict[tuple[str, str], Any] = {}

    def play(self, suite: str, runtime: str, scene: Scene) -> Result:
        """Play a scene with a runtime."""
        key = (suite, runtime)
        if key not in self._stages:
            folder = self._folder / f"{suite}-{runtime}"
            folder.mkdir()
            self._stages[key] = SUITES[suite].stage(runtime, folder)
        return play(self._stages[key], scene)

    def close(self) -> None:
        """End all of them."""
        for stage in self._stages.values():
            stage.close()


@pytest.fixture(scope="module")
def stages() -> Iterator[Stages]:
    with tempfile.TemporaryDirectory(prefix="conf", ignore_cleanup_errors=True) as name:
        made = Stages(Path(name))
        yield made
        made.close()


@pytest.mark.parametrize("suite, scene", SCENES)
def test_scene(stages: Stages, suite: str, scene: Scene) -> None:
    results = {(suite, runtimes.OURS, scene.name): stages.play(suite, runtimes.OURS, scene)}
    if failures(results, suite, scene):
        # Is it demanded at all?
        for name in runtimes.REFERENCES:
            if shutil.which(name) is None:
                pytest.skip(f"no {name} to compare with")
            results[suite, name, scene.name] = stages.play(suite, name, scene)
    assert not (found := failures(results, suite, scene)), "\n".join(detail(row, runtimes.ALL) for row in found)


def failures(results: dict[tuple[str, str, str], Result], suite: str, scene: Scene) -> list[Row]:
    """The cases of a scene that failed with our runtime, going by the references that were played."""
    played = [name for _, name, _ in results]
    found = judge_all(results, played, {suite: [scene]})
    return [row for row in found if row.is_failure]
