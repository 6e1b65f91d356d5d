"""What `--strace` prints, compared with strace."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.sentry.conftest import Compile
from tests.sentry.test_programs import BUSYBOX, run

MARK = 'write(-1, "compare", 7)'
STRACE = "strace"
DIFFERENT = {
    r"0x[0-9a-f]{6,}": "ADDRESS",
    r" /\* [^*]* \*/": "",  # strace names the set of a number that it has no name for
}


def comparable(text: str) -> list[str]:
    """The lines between each two marks, without addresses."""
    parts = text.split(MARK)[1::2]
    lines = [line for part in parts for line in part.splitlines()[1:-1]]
    for pattern, shown in DIFFERENT.items():
        lines = [re.sub(pattern, shown, line) for line in lines]
    return [re.sub(r" += ", " = ", line) for line in lines]


@pytest.mark.skipif(not shutil.which(STRACE), reason="strace is not installed")
def test_lines_are_those_of_strace(platform: Path, compile_static: Compile) -> None:
    program = compile_static("traced")
    theirs, ours = (run(*head, program) for head in ((STRACE,), (platform, "--strace", "--")))
    assert theirs.returncode == ours.returncode == 3
    rows = [comparable(each.stderr.decode()) for each in (theirs, ours)]
    assert len(rows[0]) > 50
    assert rows[1] == rows[0]


def test_the_end_and_missing_calls_are_shown(platform: Path) -> None:
    shown = run(platform, "--strace", "--", BUSYBOX, "cat", "/nonexistent\x1b[1m").stderr.decode()
    assert 'openat(AT_FDCWD, "/nonexistent\\33[1m", O_RDONLY) = -1 ENOENT (No such file or directory)\n' in shown
    assert "exit_group(1) = ?\n" in shown
    assert "not there: rseq 334, 1 times\n" in shown
