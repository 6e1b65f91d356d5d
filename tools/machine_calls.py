"""`python -m tools.machine_calls [--write]`: the tables of a machine's calls and of a control socket's requests.

Both are made of vmm.machine.interface.CALLS and vmm.control.requests.REQUESTS. A test compares the pages with this.
"""

from __future__ import annotations

import sys

from tools.where import ROOT
from vmm.control.requests import REQUESTS
from vmm.lifecycle import ALLOWED, STATES
from vmm.machine.interface import CALLER, CALLS, INSIDE, OUTSIDE, Argument

PAGES = (ROOT / "docs" / "reference" / "machine-calls.md", ROOT / "docs" / "reference" / "control.md")
BEGIN, END = "<!-- calls: python -m tools.machine_calls --write -->", "<!-- end of calls -->"
LEADS_TO = {
    "start": "running",
    "run": "ended",
    "pause": "paused",
    "resume": "running",
    "reset": "running",
    "stop": "ended",
    "close": "closed",
}
WHO = {INSIDE: "its process", OUTSIDE: "with a process outside", CALLER: "cannot"}


def states() -> list[str]:
    """The table of docs/reference/machine-calls.md."""
    lines = [f"| call | {' | '.join(STATES)} | leads to | in a jail | request |", "| --- " * (len(STATES) + 4) + "|"]
    for name, allowed in ALLOWED.items():
        row = CALLS.get(name)
        marks = " | ".join("x" if state in allowed else " " for state in STATES)
        who = WHO[row.jailed] if row is not None else ""
        request = f"`{row.request}`" if row is not None and row.request else ""
        lines.append(f"| `{name}` | {marks} | {LEADS_TO.get(name, '')} | {who} | {request} |")
    return lines


def _shown(argument: Argument) -> str:
    about = [argument.unit] if argument.unit else []
    if argument.optional:
        about.append("optional")
    elif argument.default is not None:
        about.append(f"optional, {str(argument.default).lower()}")
    return f"`{argument.name}`" + (f" ({', '.join(about)})" if about else "")


def requests() -> list[str]:
    """The table of docs/reference/control.md."""
    lines = ["| command | arguments | effect and result |", "| --- | --- | --- |"]
    for request in REQUESTS.values():
        arguments = ", ".join(map(_shown, request.arguments))
        lines.append(f"| `{request.name}` | {arguments} | {request.text} |")
    return lines


def with_tables() -> dict[str, str]:
    """The pages as they are to be, by their paths below the root."""
    found = {}
    for page, table in zip(PAGES, (states(), requests()), strict=True):
        text = page.read_text()
        before, after = text[: text.index(BEGIN)], text[text.index(END) :]
        found[str(page.relative_to(ROOT))] = "\n".join([before + BEGIN, "", *table, "", after])
    return found


def main() -> int:
    """Print the tables, or write them into their pages."""
    for path, text in with_tables().items():
        if "--write" in sys.argv[1:]:
            (ROOT / path).write_text(text)
        else:
            print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
