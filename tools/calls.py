"""`python -m tools.calls [--write]`: the system calls that our processes may make, as docs/system-calls.md shows them.

Filters are made of the same lines (vmm/native/base/seccomp.h). A test compares the page with this.
"""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

from tools.where import ROOT

NATIVE = ROOT / "vmm" / "native"
PAGE = ROOT / "docs" / "system-calls.md"
HEAD = """# System calls

Made by `python -m tools.calls --write` of the lists from which the filters are made; do not edit. A call that is not
listed, or has other arguments, ends the process that makes it.
"""
LISTS = {
    "fsd/fsd_calls.h": "`pyvmm-fsd` once it serves. With the option `handles` of a share `open_by_handle_at` is added.",
}
"""Files below vmm/native, and whose list each is."""
LINE = re.compile(r'^(CALL|WHEN|WHEN2|FAIL)\((\w+), (?:(.*), )?"(.*)"\)$')
ARGUMENTS = {
    "clone": "flags", "fcntl": "fd cmd", "ioctl": "fd op", "mknodat": "dirfd pathname mode dev",
    "mmap": "addr length prot flags", "mprotect": "addr len prot", "prctl": "op", "unshare": "flags",
}  # fmt: skip


class Line(NamedTuple):
    """A line of a list.

    :ivar when: what its arguments have to be, or what the answer is; empty: anything
    """

    name: str
    when: str
    why: str


def _condition(name: str, arg: str, mask: str, value: str) -> str:
    words = ARGUMENTS.get(name, "").split()
    what = words[int(arg)] if int(arg) < len(words) else f"argument {arg}"
    if mask == "SECCOMP_ALL":
        return f"{what} is {value}"
    if value == "0" and "S_IFMT" not in mask:
        return f"{what} without {mask}"
    return f"{what} & {mask} is {value}" if mask != value else f"{what} with {mask}"


def lines_of(text: str) -> list[Line | str]:
    """The lines of a list, and its comments (those that stand alone), in their order."""
    found: list[Line | str] = []
    for line in text.splitlines()[2:]:
        if comment := re.fullmatch(r"/\* (.*) \*/", line):
            found.append(comment[1])
        elif match := LINE.match(line):
            kind, name, rest, why = match.groups()
            words = rest.split(", ") if rest else []
            if kind == "FAIL":
                when = f"answered with {words[0]}"
            else:
                when = ", ".join(_condition(name, *words[at : at + 3]) for at in range(0, len(words), 3))
            found.append(Line(name, when, why))
        elif line:
            raise SystemExit(f"not a line of a list: {line}")
    return found


def names_of(path: str) -> set[str]:
    """The calls of a list, below vmm/native."""
    return {line.name for line in lines_of((NATIVE / path).read_text()) if isinstance(line, Line)}


def _table(path: str) -> list[str]:
    rows: list[str] = []
    for line in lines_of((NATIVE / path).read_text()):
        if isinstance(line, str):
            rows += ["", line, "", "| call | when | for |", "| --- | --- | --- |"] if "(base/" not in line else []
        else:
            rows.append(f"| `{line.name}` | {line.when} | {line.why} |")
    return rows


def page() -> str:
    """All lists."""
    parts = [HEAD]
    for path, what in LISTS.items():
        parts += [f"## {path}", "", f"{len(names_of(path))} calls: {what}", *_table(path), ""]
    return "\n".join(parts).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Print the page, or write it."""
    if arguments != ["--write"]:
        print(page(), end="")
    else:
        PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
