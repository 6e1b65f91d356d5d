"""`python -m tools.calls [--write]`: the system calls of our processes, as docs/reference/system-calls.md shows them.

Filters are made of the same lines (vmm/native/base/seccomp.h). A test compares the page with this.
"""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

from tools import documents
from tools.where import ROOT

FOLDERS = (ROOT / "vmm" / "native", ROOT / "vmm" / "virtio")
SHARES = documents.SHARES_GUIDE
SECURITY = documents.SECURITY
BEGIN, END = "<!-- calls: python -m tools.calls --write -->", "<!-- end of calls -->"
TABLE = "calls/table.h"
"""The kinds of threads in the process of a machine."""
THREADS = {
    "BLK": "worker of a disk's queue",
    "NET": "worker of a network's queues",
    "VSOCK": "worker of a socket device",
    "CONSOLE": "worker of a virtio console",
    "PMEM": "worker of an image as memory",
    "RNG": "worker of an entropy device",
    "DAX": "thread of a share's DAX window",
    "FILL": "thread that fills a clone's RAM",
    "VCPU": "vCPU",
    "LOOP": "the control loop",
    "START": "the starter, and a worker before it has its own list",
    "VMM": "in the jail: the first thread, above all others",
    "DISK": "the same, where there is a disk",
    "CHILD": "the same and vCPUs and the control loop, where there is a pyvmm-fsd or passt",
    "TTY": "the first thread and the control loop, with a terminal",
    "PREFETCH": "the same, in a clone with --prefetch",
    "REACH": "a worker of a socket device that has no broker",
    "CONTROL": "the first thread of the jail, where there is a control socket",
    "GDB": "the same, where there is a debugger",
    "OUTSIDE": "the first thread of the jail, where there is a broker",
    "BROKER": "`pyvmm-broker`, a process outside of the jail",
    "SERVER": "who serves the control socket of a machine in a jail, once somebody asks",
    "SHARES": "who starts servers of shares, once somebody asks, in addition to the calls of `pyvmm-fsd`",
    "FORKS": "who makes forks of a machine in a jail, once somebody asks",
    "HOST": "the container's monitor, above its machine's threads: all of its threads",
    "SPAWN": "the containerd shim, in addition to these, and the programs that it starts",
    "VHOST": "the first thread, vCPUs and the control loop, with what the kernel's vhost serves",
}
ROW = re.compile(r'^CALL\((\w+), ([A-Z| ]+), (ANY|(?:OWN|IN|WITH|WITHOUT|FAIL|REFUSED)\(.*?\)), "(.*)"\)$')
PAGE = documents.SYSTEM_CALLS
HEAD = """# System calls

Made by `python -m tools.calls --write` of the lists from which the filters are made; do not edit. A call that is not
listed, or has other arguments, ends the machine, or the process, of whoever makes it; one that HOST and SPAWN have not
fails with ENOSYS.
"""
USED = """## Who uses each entry

What tests use, recorded from the kernel (`tests/record_calls.py`, which writes this), with one test for each entry. FSD
is `pyvmm-fsd`. Of an entry that no test uses the reason is written here by hand; an entry with neither is an error.
"""
SERVER = "calls/servers.h"
LISTS = {
    SERVER: "`pyvmm-fsd` once it serves. With the option `handles` of a share `open_by_handle_at` is added.",
    "calls/forbidden.h": "what programs with `vmm.restrict_process` never make; all others they do.",
}
"""Lists, by the names with which C includes them, and the process that each is for."""
LINE = re.compile(r'^(CALL|WHEN|WHEN2|FAIL)\((\w+), (?:(.*), )?"(.*)"\)$')
ARGUMENTS = {
    "clone": "flags", "fcntl": "fd cmd", "ioctl": "fd op", "mknodat": "dirfd pathname mode dev",
    "openat": "dirfd pathname flags", "mmap": "addr length prot flags", "mprotect": "addr len prot",
    "prctl": "op", "tgkill": "tgid", "unshare": "flags",
}  # fmt: skip


class Line(NamedTuple):
    """A line of a list.

    :ivar when: what its arguments have to be, or what the answer is; empty: anything
    :ivar tests: the same, as C has it: three words for each argument
    """

    name: str
    when: str
    why: str
    tests: tuple[str, ...] = ()

    @property
    def entry(self) -> str:
        """Its name where others of the same call are beside it."""
        return " ".join([self.name, *self.tests[2::3]])


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
                found.append(Line(name, f"answered with {words[0]}", why))
            else:
                when = ", ".join(_condition(name, *words[at : at + 3]) for at in range(0, len(words), 3))
                found.append(Line(name, when, why, tuple(words)))
        elif line:
            raise SystemExit(f"not a line of a list: {line}")
    return found


def text_of(path: str) -> str:
    """The file that C includes by this name."""
    return next(folder / path for folder in FOLDERS if (folder / path).exists()).read_text()


def names_of(path: str) -> set[str]:
    """The calls of a list."""
    return {line.name for line in lines_of(text_of(path)) if isinstance(line, Line)}


def _table(path: str) -> list[str]:
    rows: list[str] = []
    for line in lines_of(text_of(path)):
        if isinstance(line, str):
            rows += ["", line, "", "| call | when | for |", "| --- | --- | --- |"] if "(base/" not in line else []
        else:
            rows.append(f"| `{line.name}` | {line.when} | {line.why} |")
    return rows


class Row(NamedTuple):
    """A line of :data:`TABLE`.

    :ivar whose: of :data:`THREADS`; none: nobody's
    :ivar entries: its name, with each of the values that an argument may have
    """

    name: str
    whose: tuple[str, ...]
    when: str
    why: str
    entries: tuple[str, ...]


def rows() -> list[Row]:
    """The lines of :data:`TABLE`."""
    words = {
        "EVERY": ("BLK", "NET", "VSOCK", "CONSOLE", "PMEM", "RNG", "DAX", "FILL"),
        "RUN": ("VCPU", "LOOP"),
    }
    text = re.sub(r"/\*.*?\*/", "", text_of(TABLE), flags=re.S).replace(",\n\t", ", ")
    found = []
    for line in text.splitlines():
        if match := ROW.match(line):
            name, whose, test, why = match.groups()
            kinds = [kind for word in whose.split(" | ") for kind in words.get(word, (word,))]
            values = test[3:-1].split(", ")[1:] if test.startswith("IN(") else []
            each = tuple(f"{name} {value}" for value in values) or (name,)
            found.append(Row(name, tuple(kind for kind in kinds if kind != "NOBODY"), _test(name, test), why, each))
        elif line:
            raise SystemExit(f"not a line of the table: {line}")
    return found


def _test(name: str, test: str) -> str:
    kind, _, rest = test.rstrip(")").partition("(")
    words = rest.split(", ")
    if kind == "FAIL":
        return f"answered with {rest}"
    if kind == "REFUSED":
        given = ARGUMENTS.get(name, "").split()
        return f"{given[int(words[1])]} is {words[2]}: answered with {words[0]}".replace("|", "\\|")
    if kind == "IN":
        given = ARGUMENTS.get(name, "").split()
        what = given[int(words[0])] if int(words[0]) < len(given) else f"argument {words[0]}"
        return f"{what} is {', '.join(words[1:])}".replace("|", "\\|")
    if kind == "OWN":
        return f"{ARGUMENTS[name].split()[int(rest)]} is its own process"
    return "" if kind == "ANY" else _condition(name, words[0], words[1], words[1] if kind == "WITH" else "0")


def allowed(*kinds: str) -> set[str]:
    """The calls that threads of these kinds may make, without those that fail with an errno."""
    return {row.name for row in rows() if {*kinds} & {*row.whose} and "answered with" not in row.when}


def counts() -> list[str]:
    """The table of docs/security.md."""
    lines = ["| thread | calls |", "| --- | --- |"]
    for kind, what in THREADS.items():
        lines.append(f"| {what} | {len(allowed(kind))} |")
    # With a broker, which a socket device in a jail always has, nothing is reached without it
    everything = allowed(*{*THREADS} - {"REACH", "START", "BROKER", "SERVER", "SHARES", "FORKS", "HOST", "SPAWN"})
    lines.append(f"| a jailed process with all of these, socket devices included | {len(everything)} |")
    return [*lines, f"| `pyvmm-fsd` | {len(names_of(SERVER))} |"]


def _threads() -> list[str]:
    parts = [f"## {TABLE}", "", "Threads of the process that has the machine.", ""]
    parts += ["| short | thread | calls |", "| --- | --- | --- |"]
    for kind, what in THREADS.items():
        parts.append(f"| {kind} | {what} | {len(allowed(kind))} |")
    parts += ["", "| call | whose | when | for |", "| --- | --- | --- | --- |"]
    parts += [f"| `{row.name}` | {' '.join(row.whose)} | {row.when} | {row.why} |" for row in rows() if row.whose]
    nobody = ", ".join(f"`{row.name}`" for row in rows() if not row.whose)
    return [*parts, "", f"Nobody's, as all others that are not above: {nobody}.", ""]


def security() -> str:
    """docs/security.md with its table."""
    before, _, rest = SECURITY.read_text().partition(BEGIN)
    return "\n".join([f"{before}{BEGIN}", *counts(), f"{END}{rest.partition(END)[2]}"])


def shares() -> str:
    """The guide to shares with the number of calls that the server of a share has."""
    return re.sub(
        r"a list of \d+ allowed system calls",
        f"a list of {len(names_of(SERVER))} allowed system calls",
        SHARES.read_text(),
    )


def page() -> str:
    """All lists, and below them what the page has already: who uses them."""
    return _lists() + USED + evidence()


def _lists() -> str:
    parts = [HEAD, *_threads()]
    for path, what in LISTS.items():
        parts += [f"## {path}", "", f"{len(names_of(path))} calls: {what}", *_table(path), ""]
    return "\n".join(parts)


def evidence() -> str:
    """For each kind of thread the tests that use its entries: `python -m tests.record_calls` writes it."""
    return PAGE.read_text().partition(USED)[2]


def write_evidence(text: str) -> None:
    """Write the page with another :func:`evidence`."""
    PAGE.write_text(f"{_lists()}{USED}{text}\n")


def main(arguments: list[str]) -> int:
    """Print the page, or write it."""
    if arguments != ["--write"]:
        print(page(), end="")
    else:
        PAGE.write_text(page())
        SECURITY.write_text(security())
        SHARES.write_text(shares())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
