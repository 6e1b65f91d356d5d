"""The descriptions of system calls: what is made from them, and what Linux's headers say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from pyvmm_sentry import generate
from pyvmm_sentry.syscalls import MOST_ARGUMENTS, SYSCALLS

WRITE = "python -m pyvmm_sentry.generate --write, in examples/sentry"


def test_generated_files_are_those_of_the_descriptions() -> None:
    assert generate.TABLE.read_text() == generate.table(), WRITE
    assert generate.PAGE.read_text() == generate.page(), WRITE


def test_each_function_of_the_core_that_answers_a_call_has_a_row() -> None:
    """Also one whose definition does not look as the generator expects: it would be taken for a missing one."""
    names = {call.function for call in SYSCALLS}
    definition = re.compile(r"^s64 (sys_\w+)\(.*\)$", re.MULTILINE)
    sources = [path.read_text() for path in generate.CORE.rglob("*.c") if path != generate.TABLE]
    found = {name for text in sources for name in definition.findall(text)}
    assert found == generate.defined()
    assert found - names == set()


def test_numbers_and_names_are_those_of_linux(tmp_path: Path) -> None:
    checks = [f"_Static_assert(SYS_{call.name} == {call.number});" for call in SYSCALLS]
    source = tmp_path / "check.c"
    source.write_text("\n".join(["#include <sys/syscall.h>", *checks, ""]))
    done = subprocess.run(["gcc", "-std=gnu2x", "-fsyntax-only", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_descriptions_are_sorted_and_each_number_and_name_is_there_once() -> None:
    numbers = [call.number for call in SYSCALLS]
    assert numbers == sorted(set(numbers))
    assert len({call.name for call in SYSCALLS}) == len(numbers)


def test_arguments_that_give_a_size_are_there() -> None:
    for call in SYSCALLS:
        names = [argument.name for argument in call.arguments]
        assert len(set(names)) == len(call.signature.split()) <= MOST_ARGUMENTS, call
        sized = [argument for argument in call.arguments if argument.kind.startswith(("in", "out", "iovec", "polls"))]
        assert all(argument.detail in names for argument in sized if argument.kind != "int"), call
