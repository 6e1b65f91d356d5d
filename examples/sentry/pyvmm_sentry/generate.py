"""`python -m pyvmm_sentry.generate --write`: make what follows from the descriptions of the system calls.

That is the core's dispatch table, what its strace prints, and the page SYSCALLS.md. Beside them: the numbers of the
agent's messages.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

from pyvmm_sentry import messages
from pyvmm_sentry.abi import PAIRS, SETS, STRUCTS, WORDS, Struct
from pyvmm_sentry.syscalls import SYSCALLS, Argument, Syscall

HERE = Path(__file__).resolve().parents[1]
CORE = HERE / "core"
TABLE, TRACE, PAGE = CORE / "syscall_table.c", CORE / "strace_table.c", HERE / "SYSCALLS.md"
ANSWERED = Path(__file__).resolve().parent / "built" / "answered"
"""Their functions, one a line, in an installation without the sources (setup.py)."""
TYPES = (*STRUCTS, *PAIRS, *WORDS)
RESULTS = {"": "T_LONG", "addr": "T_HEX", "mode": "T_MODE", "fcntl": "T_FCNTL", "nothing": "T_NOTHING"}
NAMED_SETS = {"signal": "signal", "type": "type", "futex": "futex", "poll": "poll", "epoll": "epoll_events"}
NAMED_SETS |= {"family": "family", "open": "open"}
"""Those to which the core's printer refers by name."""
ERRNOS = 134
"""Linux has no errno above 133."""
TIERS = {1: "Busybox", 2: "Ordinary programs", 3: "Special programs"}
DEFINITION = re.compile(r"^s64 sys_(\w+)\(struct \w+ \*\w+, const u64 \*args\)$", re.MULTILINE)


def defined() -> set[str]:
    """The functions of the core that answer system calls."""
    if ANSWERED.exists():
        return set(ANSWERED.read_text().split())
    sources = [path.read_text() for path in sorted(CORE.rglob("*.c")) if path != TABLE]
    return {f"sys_{name}" for text in sources for name in DEFINITION.findall(text)}


def answered() -> tuple[Syscall, ...]:
    """The system calls that the core answers."""
    there = defined()
    return tuple(call for call in SYSCALLS if call.function in there)


def _detail(call: Syscall, argument: Argument) -> int:
    """The number of a set, of a type or of another argument; of the call's path, whether it follows links."""
    if argument.name == call.path:
        return 1 if call.follows else 2
    if argument.kind in ("flags", "one"):
        return list(SETS).index(argument.detail)
    if argument.kind in ("get", "put", "change"):
        return TYPES.index(argument.detail)
    return [other.name for other in call.arguments].index(argument.detail) if argument.detail else 0


def _row(call: Syscall) -> str:
    arguments = [f"{{ T_{each.kind.upper()}, {_detail(call, each)} }}" for each in call.arguments]
    count = f"{len(arguments)}, {RESULTS[call.result]}"
    shown = f", {{ {', '.join(arguments) or '{ 0, 0 }'} }}"
    line = f'\t[{call.number}] = {{ "{call.name}", {call.function}, {count}{shown} }},'
    return line if len(line) < 115 else line.replace(", { { T_", ",\n\t\t{ { T_", 1)


def _source(*lines: str) -> str:
    """A generated file of the core."""
    first = "/* Generated from pyvmm_sentry/syscalls.py and abi.py: python -m pyvmm_sentry.generate --write */"
    return "\n".join(["// SPDX-License-Identifier: Apache-2.0", first, *lines, ""])


def table() -> str:
    """The source of the core's table. It does not depend on what is there: a function that is not is a null pointer."""
    return _source(
        '#include "core.h"',
        '#include "strace.h"',
        "",
        "#define ANSWER(name) s64 name(struct task *t, const u64 *args) __attribute__((weak))",
        "",
        *(f"ANSWER({name});" for name in sorted({call.function for call in SYSCALLS})),
        "",
        "const struct syscall syscalls[SYSCALLS] = {",
        *(_row(call) for call in SYSCALLS),
        "};",
    )


def _sets() -> list[str]:
    lines = []
    for name, each in SETS.items():
        rows = [f'\t{{ "{label}", {value:#x} }},' for label, value in each.values]
        lines += [f"static const struct trace_name set_{name}[] = {{", *rows, "};", ""]
    lines.append("const struct trace_set trace_sets[] = {")
    for name, each in SETS.items():
        zero = f'"{each.zero}"' if each.zero else "NULL"
        lines.append(f"\t{{ set_{name}, ARRAY_SIZE(set_{name}), {each.mask}, {zero} }},")
    numbers = [f"trace_{name}_set = {list(SETS).index(of)}" for name, of in NAMED_SETS.items()]
    return [*lines, "};", f"const u8 {', '.join(numbers)};", ""]


def _fields(name: str, struct: Struct) -> list[str]:
    rows = []
    for field in struct.fields:
        nested = field.kind in STRUCTS
        kind = "STRUCT" if nested else field.kind.upper()
        detail = TYPES.index(field.kind) if nested else list(SETS).index(field.detail) if field.detail else 0
        rows.append(f'\t{{ "{field.name}", {field.offset}, T_{kind}, {detail} }},')
    return [f"static const struct trace_field fields_{name}[] = {{", *rows, "};", ""]


def _types() -> list[str]:
    lines = [line for name, struct in STRUCTS.items() for line in _fields(name, struct)]
    lines.append("const struct trace_type trace_types[] = {")
    for name, struct in STRUCTS.items():
        more = "true" if struct.more else "false"
        lines.append(f"\t{{ T_STRUCT, 0, {len(struct.fields)}, {more}, {struct.size}, fields_{name} }},")
    for of in PAIRS.values():
        lines.append(f"\t{{ T_PAIR, {TYPES.index(of)}, 0, false, {2 * STRUCTS[of].size}, NULL }},")
    lines += [f"\t{{ T_{name.upper()}, 0, 0, false, {size}, NULL }}," for name, size in WORDS.items()]
    return [*lines, "};", ""]


def trace() -> str:
    """The source of what the core's strace prints."""
    names = sorted((number, name) for number, name in errno.errorcode.items() if number < ERRNOS)
    return _source(
        '#include "core.h"',
        '#include "strace.h"',
        "",
        *_sets(),
        *_types(),
        "const struct trace_errno trace_errnos[] = {",
        *(f'\t[{number}] = {{ "{name}", "{os.strerror(number)}" }},' for number, name in names),
        "};",
        "const u32 trace_errno_count = ARRAY_SIZE(trace_errnos);",
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
    """Print the page, or write all files."""
    if arguments != ["--write"]:
        print(page(), end="")
        return 0
    TABLE.write_text(table())
    TRACE.write_text(trace())
    PAGE.write_text(page())
    messages.HEADER.write_text(messages.header())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
