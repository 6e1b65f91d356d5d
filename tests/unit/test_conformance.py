"""What the suites of tests/conformance say of themselves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.conformance.differences import DIFFERENCES, Difference
from tests.conformance.journal import LOST, Journal
from tests.conformance.suite import Result, case, equal, judge
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


def test_differences_are_cases() -> None:
    assert [name for name in DIFFERENCES if name not in NAMES] == []


CASE = case("a/b", "b is 1", equal("b", "1"))


def result(problem: str = "", **seen: str) -> Result:
    return Result(seen, problem, 0.0)


def test_a_verdict() -> None:
    assert judge(CASE, result(b="1")) == "pass"
    assert judge(CASE, result(b="2")) == "fail"
    assert judge(CASE, result()) == "fail"
    assert judge(CASE, result("it did not end")) == "error"
    assert judge(CASE, result("it did not end", b="1")) == "pass", "it came as far as that"


def test_what_has_to_be_as_with_the_reference() -> None:
    compared = CASE._replace(compared=("c",))
    assert judge(compared, result(b="1", c="x"), result(b="1", c="x")) == "pass"
    assert judge(compared, result(b="1", c="y"), result(b="1", c="x")) == "fail"
    assert judge(compared, result(b="1", c="y"), result("it did not end")) == "pass", "there is nothing to compare with"


def test_a_difference_is_refused_with_its_message_or_fails() -> None:
    known = Difference("a row", message="cannot be had").holds
    assert judge(CASE, result(errors="config.json: this cannot be had"), difference=known) == "different"
    assert judge(CASE, result(errors="another error"), difference=known) == "fail"
    assert judge(CASE, result(b="1"), difference=known) == "pass"
    shown = Difference("a row", shows=equal("c", "2")).holds
    assert judge(CASE, result(c="2"), difference=shown) == "different"
    assert judge(CASE, result(c="3"), difference=shown) == "fail"


def test_a_scene_that_a_lab_has_lost_twice_is_a_result(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.begin(("oci", "pyvmm", "one"))
    assert journal.results() == {}
    journal.begin(("oci", "pyvmm", "one"))
    assert journal.results()["oci", "pyvmm", "one"].problem == LOST
    journal.end(("oci", "pyvmm", "one"), result(b="1"))
    assert journal.results()["oci", "pyvmm", "one"].seen == {"b": "1"}
