"""`python -m pyvmm_sentry.generate --write`: make what follows from the descriptions of the system calls.

That is the core's dispatch table and the page SYSCALLS.md.
"""

from __future__ import annotations

import errno
import re
import sys
from pathlib import Path

from pyvmm_sentry.syscalls import SYSCALLS, Syscall

HERE = Path(__file__).resolve().parents[1]
CORE = HERE / "core"
TABLE, PAGE = CORE / "syscall_table.c", HERE / "SYSCALLS.md"
TYPES = {"int": "ARG_INT", "id": "ARG_INT", "fd": "ARG_FD", "dirfd": "ARG_FD", "size": "ARG_SIZE", "path": "ARG_STRING"}
ERRNOS = 134
"""Linux has no errno above 133."""
TIERS = {1: "Busybox", 2: "Ordinary programs", 3: "Special programs"}
DEFINITION = re.compile(r"^s64 sys_(\w+)\(struct \w+ \*\w+, const u64 \*args\)$", re.MULTILINE)


def defined() -> set[str]:
    """The functions of the core that answer system calls."""
    sources = [path.read_text() for path in sorted(CORE.rglob("*.c")) if path != TABLE]
    return {f"sys_{name}" for text in sources for name in DEFINITION.findall(text)}


def answered() -> tuple[Syscall, ...]:
    """The system calls that the core answers."""
    there = defined()
    return tuple(call for call in SYSCALLS if call.function in there)


def table() -> str:
    """The source of the core's table. It does not depend on what is there: a function that is not is a null pointer."""
    rows = []
    for call in SYSCALLS:
        types = [TYPES.get(argument.kind, "ARG_HEX") for argument in call.arguments]
        arguments = f"{{ {', '.join(types)} }}" if types else "{ 0 }"
        rows.append(f'\t[{call.number}] = {{ "{call.name}", {call.function}, {len(types)}, {arguments} }},')
    functions = sorted({call.function for call in SYSCALLS})
    names = [f'\t[{number}] = "{name}",' for number, name in sorted(errno.errorcode.items()) if number < ERRNOS]
    return "\n".join(
        [
            "// SPDX-License-Identifier: Apache-2.0",
            "/* Generated from pyvmm_sentry/syscalls.py: python -m pyvmm_sentry.generate --write */",
            '#include "core.h"',
            "",
            "#define ANSWER(name) s64 name(struct task *t, const u64 *args) __attribute__((weak))",
            "",
            *(f"ANSWER({name});" for name in functions),
            "",
            "const struct syscall syscalls[SYSCALLS] = {",
            *rows,
            "};",
            "",
            "const char *const errnos[] = {",
            *names,
            "};",
            "const u32 errno_count = ARRAY_SIZE(errnos);",
            "",
        ]
    )


def page() -> str:
    """The page about them."""
    there = answered()
    rows = [f"| {call.number} | {call.name} | {call.tier} | {call.note} |" for call in there]
    missing = [call for call in SYSCALLS if call not in there]
    return "\n".join(
        [
            "# System calls of the Sentry",
            "",
            "This page is generated: `python -m pyvmm_sentry.generate --write`.",
            f"The Sentry answers {len(there)} of the {len(SYSCALLS)} system calls that it has descriptions of.",
            "Every other one returns `ENOSYS` and is counted by number.",
            "Busybox needs those of tier 1, ordinary programs those of tier 2, and special programs those of tier 3.",
            "",
            "| number | name | tier | difference from Linux |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "## What is missing",
            "",
            "| tier | system calls |",
            "| --- | --- |",
            *(f"| {tier} | {', '.join(call.name for call in missing if call.tier == tier)} |" for tier in TIERS),
            "",
        ]
    )


def main(arguments: list[str]) -> int:
    """Print the page, or write both files."""
    if arguments != ["--write"]:
        print(page(), end="")
        return 0
    TABLE.write_text(table())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
