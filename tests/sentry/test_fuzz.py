"""Random programs of system calls have the same results natively and on the Sentry."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.sentry import fuzz
from tests.sentry.fuzz_known import is_known

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the native run is in a root directory of its own")
SEEDS = range(1000, 1024)
LENGTH = 150


@pytest.fixture(scope="module", params=[False, True], ids=["tmpfs", "layers"])
def runner(request: pytest.FixtureRequest) -> Iterator[fuzz.Runner]:
    made = fuzz.Runner(layers=request.param)
    yield made
    made.close()


def test_a_program_is_the_same_for_each_seed_and_survives_the_corpus_format() -> None:
    program = fuzz.Maker(7, LENGTH).program()
    assert fuzz.encode(program) == fuzz.encode(fuzz.Maker(7, LENGTH).program())
    assert fuzz.encode(fuzz.from_text(fuzz.to_text(program))) == fuzz.encode(program)


def test_native_runs_of_a_program_agree(runner: fuzz.Runner) -> None:
    """What cannot be equal is left out: otherwise every program would differ."""
    for seed in SEEDS:
        content = fuzz.encode(fuzz.Maker(seed, LENGTH).program())
        [lines, again] = runner.native([content, content])
        assert len(lines) == LENGTH, lines[-1]
        assert again == lines


def test_random_programs_agree_with_linux(runner: fuzz.Runner) -> None:
    found = [
        f"seed {seed}: {difference.call}\n  native {difference.native}\n  sentry {difference.ours}"
        for seed, difference in fuzz.find(runner, iter(SEEDS), LENGTH, 600)
    ]
    assert found == [], "\n".join(["python -m tests.sentry.fuzz finds short programs", *found])


@pytest.mark.parametrize("name", sorted(path.name for path in fuzz.CORPUS.glob("*.txt")))
def test_what_differed_before_agrees(runner: fuzz.Runner, name: str) -> None:
    [difference] = fuzz.compare(runner, [fuzz.from_text((fuzz.CORPUS / name).read_text())])
    assert difference is None or is_known(difference), difference
