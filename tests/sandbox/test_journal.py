"""Nothing that was acknowledged is lost, with machines that run their programs here and have files of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE, needs_namespaces
from tests.sandbox.journal_schedules import check
from tests.sandbox.rooted_machines import run

CODE = """
from tests.sandbox.journal_schedules import Schedule
for seed in {seeds}:
    print(seed, *Schedule(seed, image, place, {{}}).run({steps}), flush=True)
"""


@needs_namespaces
@pytest.mark.parametrize("seed", range(10))
def test_acknowledged_records_survive(tmp_path: Path, seed: int) -> None:
    printed = run(tmp_path, CODE.format(seeds=[seed], steps=5), PATIENCE)
    assert printed.split()[0] == str(seed) and len(printed.split()) == 6


@pytest.mark.long
@needs_namespaces
@pytest.mark.parametrize("seed", range(100, 200))
def test_acknowledged_records_survive_long_schedules(tmp_path: Path, seed: int) -> None:
    printed = run(tmp_path, CODE.format(seeds=[seed], steps=20), 2 * PATIENCE)
    assert printed.split()[0] == str(seed) and len(printed.split()) == 21


@pytest.mark.parametrize("text", ["1\n3\n", "1\n3\n2\n", "1\n2\n2\n3\n", "1\n2\n3\n7\n"])
def test_the_check_finds_losses(text: str) -> None:
    check("1\n2\n3\n4\n", [1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(AssertionError):
        check(text, [1, 2, 3], [1, 2, 3, 4])
