"""The table of a run, and docs/reference/conformance.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.conformance.differences import DIFFERENCES
from tests.conformance.journal import Key
from tests.conformance.runtimes import OURS, REFERENCES, TITLES
from tests.conformance.suite import Case, Result, Scene, Verdict, judge
from tests.conformance.suites import SUITES

LONGEST = 200
"""Characters of what was seen that are printed."""

NOT_PLAYED = Result({}, "it was not played", 0.0)


class Row(NamedTuple):
    """What a case gave with each runtime."""

    suite: str
    scene: Scene
    case: Case
    verdicts: Mapping[str, Verdict]
    results: Mapping[str, Result]

    @property
    def is_demanded(self) -> bool:
        """Whether the references that were played pass it."""
        return all(self.verdicts[name] == "pass" for name in REFERENCES if name in self.verdicts)

    @property
    def is_failure(self) -> bool:
        """Whether it has to pass with our runtime and does not, or is a difference no more."""
        ours = self.verdicts.get(OURS, "pass")
        if ours == "pass":
            return self.case.name in DIFFERENCES and OURS in self.verdicts
        return ours != "different" and (self.is_demanded or self.case.name in DIFFERENCES)


def rows(results: Mapping[Key, Result], names: Sequence[str], scenes: Mapping[str, Sequence[Scene]]) -> list[Row]:
    """A row for each case of the scenes, with what was played."""
    found = []
    for suite, played in scenes.items():
        for scene in played:
            seen = {name: results[suite, name, scene.name] for name in names if (suite, name, scene.name) in results}
            if OURS in names and OURS not in seen:
                seen[OURS] = NOT_PLAYED
            for case in scene.cases:
                known = DIFFERENCES.get(case.name)
                verdicts = {
                    name: judge(case, result, seen.get(REFERENCES[0]), known.holds if known and name == OURS else None)
                    for name, result in seen.items()
                }
                found.append(Row(suite, scene, case, verdicts, seen))
    return found


def table(found: Sequence[Row], names: Sequence[str]) -> str:
    """Cases that pass of each suite, in Markdown."""
    lines = ["| suite | cases | " + " | ".join(TITLES[name] for name in names) + " | differences | failures |"]
    lines.append("| --- " * (len(names) + 4) + "|")
    for suite in dict.fromkeys(row.suite for row in found):
        of_suite = [row for row in found if row.suite == suite]
        cells = []
        for name in names:
            given = [row.verdicts[name] for row in of_suite if name in row.verdicts]
            cells.append(f"{given.count('pass')}/{len(given)}" if given else "-")
        different = sum(row.verdicts.get(OURS) == "different" for row in of_suite)
        failures = sum(row.is_failure for row in of_suite)
        lines.append(f"| {SUITES[suite].title} | {len(of_suite)} | {' | '.join(cells)} | {different} | {failures} |")
    return "\n".join(lines)


def detail(row: Row, names: Sequence[str]) -> str:
    """One case, with what each runtime gave."""
    text = f"{row.suite}: {row.case.name}: {row.case.must}"
    for name in names:
        if name in row.results:
            result = row.results[name]
            seen = {key: value[-LONGEST:] for key, value in result.seen.items() if value and not key.endswith("?")}
            text += f"\n    {name}: {row.verdicts[name]}" + (f": {result.problem or seen}" if row.is_failure else "")
    return text


def differing(found: Sequence[Row]) -> Iterator[str]:
    """The rows of Markdown for cases that ours does not pass, or a reference does not; runsc is in the table alone."""
    for row in found:
        verdicts = row.verdicts
        if all(verdicts.get(name, "pass") == "pass" for name in (OURS, *REFERENCES)):
            continue
        known = DIFFERENCES.get(row.case.name)
        ours = verdicts.get(OURS, "-")
        word = f"[{known.row}](differences.md)" if known and ours == "different" else ours
        cells = " | ".join(verdicts.get(name, "-") for name in TITLES if name != OURS)
        yield f"| `{row.case.name}` | {row.case.must.replace('|', chr(92) + '|')} | {word} | {cells} |"


def document(found: Sequence[Row], names: Sequence[str], versions: Mapping[str, str]) -> str:
    """docs/reference/conformance.md."""
    missing = sum(row.results.get(OURS) is NOT_PLAYED for row in found)
    found = [row for row in found if row.results.get(OURS) is not NOT_PLAYED]
    said = ", ".join(f"{TITLES[name]} {versions[name]}" for name in names if name != OURS)
    lines = [
        "# Conformance",
        "",
        "`make conformance` writes this file. Its suites (`tests/conformance`) play scenes with the container runtime",
        "of `examples/kata` and with references in the same run; a scene has cases, each a demand of a specification,",
        "or what users see. A case that crun and runc pass and ours does not is a failure, unless it is a row of",
        "`differences.md`: then it has to be refused, with the message that the row is known by. A case that crun or",
        "runc does not pass itself is not demanded.",
        "",
        f"References: {said}.",
        *([f"Of the cases, {missing} were not played, and are in none of the tables."] if missing else []),
        "",
        table(found, names),
        "",
    ]
    failures = [row for row in found if row.is_failure]
    lines += ["## Failures", "", *(f"- `{row.case.name}`: {row.case.must}" for row in failures), ""] if failures else []
    lines += ["## Cases that not all of pyvmm, crun and runc pass", ""]
    lines += ["| case | demanded | pyvmm | " + " | ".join(TITLES[n] for n in TITLES if n != OURS) + " |"]
    lines += ["| --- " * (len(TITLES) + 2) + "|", *differing(found)]
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    """Replace the file when it would be another."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
