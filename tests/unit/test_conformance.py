"""What the suites of tests/conformance say of themselves."""

from __future__ import annotations

from collections import Counter

from tests.conformance.differences import DIFFERENCES
from tests.conformance.faults import FAULTS
from tests.conformance.suites import SUITES
from tools.where import ROOT

NAMES = Counter(case.name for suite in SUITES.values() for scene in suite.scenes for case in scene.cases)


def test_a_case_has_a_name_of_its_own() -> None:
    assert [name for name, count in NAMES.items() if count > 1] == []


def test_scenes_of_a_suite_have_names_of_their_own() -> None:
    for suite in SUITES.values():
        assert [name for name, count in Counter(scene.name for scene in suite.scenes).items() if count > 1] == []


def test_a_difference_is_a_row_of_the_table() -> None:
    lines = (ROOT / "docs" / "differences.md").read_text().splitlines()
    rows = [line.split("|")[1] for line in lines if line.startswith("| ")]
    assert [name for name, known in DIFFERENCES.items() if not any(known.row in row for row in rows)] == []


def test_differences_and_faults_are_cases() -> None:
    assert [name for name in (*DIFFERENCES, *FAULTS) if name not in NAMES] == []
    assert not FAULTS & DIFFERENCES.keys()
