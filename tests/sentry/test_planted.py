"""Bugs that are planted into a copy of the core: the tests of bad files and of random calls must find each."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from pyvmm_sentry import program
from tests.sentry.conftest import SRC
from tests.sentry.test_attacks import files, start

pytestmark = pytest.mark.long


class Bug(NamedTuple):
    """A check that is taken out.

    :ivar file: of the core
    """

    file: str
    right: str
    wrong: str


BUGS = {
    "a segment's start is not checked": Bug("elf.c", "if (s->offset > size || s->file_size", "if (s->file_size"),
    "a segment's end is not checked": Bug("elf.c", "s->file_size > size - s->offset)", "s->file_size > size)"),
    "more is copied than mapped": Bug("elf.c", "if (s->file_size > s->size)", "if (0)"),
    "the table is not checked": Bug("elf.c", "table > size - header->segments_at)", "table > size)"),
    "a lying platform is believed": Bug("vfs/console.c", "got > (s64)room", "0"),
    "more is copied than asked": Bug(
        "user.c", "% PAGE, part = rest < size - done ? rest : size - done;\n\t\tu8", "% PAGE, part = rest;\n\t\tu8"
    ),
    "a freed page is still shown": Bug(
        "page_table.c", "if (any)\n\t\tcore.ops->unmap(mm->space, start, end - start);", "if (any)\n\t\t;"
    ),
}


def is_found(core: Path, folder: Path) -> bool:
    """The attack aborts, or a bad file is accepted or refused for another reason."""
    attack = program.hosted("attack", [SRC / "attack.c"], sanitized=True, core=core)
    if subprocess.run([attack, "0", "3000"], capture_output=True, timeout=600).returncode:
        return True
    platform = program.hosted("planted", program.with_host(program.PTRACE), core=core)
    for reason, content in files():
        done = start(platform, folder, content)
        if done.returncode != 126 or f": {reason}" not in done.stderr:
            return True
    return False


@pytest.mark.parametrize("name", BUGS)
def test_it_is_found(name: str, tmp_path: Path) -> None:
    bug = BUGS[name]
    core = tmp_path / "core"
    shutil.copytree(program.CORE, core)
    source = (core / bug.file).read_text()
    assert source.count(bug.right) == 1, f"{bug.file} has changed: plant the bug elsewhere"
    (core / bug.file).write_text(source.replace(bug.right, bug.wrong))
    assert is_found(core, tmp_path)
