"""Each system call of the table has a program that compares its success and each of its errnos with Linux."""

from __future__ import annotations

import shutil
from fnmatch import fnmatchcase

import pytest

from pyvmm_sentry.generate import answered
from tests.sentry import call_coverage
from tests.sentry.call_coverage import SUCCESS, TABLE, missing, read, record_all
from tests.sentry.errnos import ERRNOS, EXCUSED

WRITE = "python -m tests.sentry.call_coverage --write"


def test_each_call_has_a_test_of_its_success_and_of_each_errno() -> None:
    """Or a reason why it has none."""
    names = [call.name for call in answered()]
    covered = read(TABLE.read_text())
    assert list(covered) == names, WRITE
    assert set(ERRNOS) == set(names)
    assert list(missing(covered)) == []


def test_excuses_are_needed() -> None:
    """Each of their patterns fits a call that has the errno, and of which it is not covered."""
    covered = read(TABLE.read_text())
    for excuse in EXCUSED:
        for pattern in excuse.calls.split():
            fits = [name for name in ERRNOS if fnmatchcase(name, pattern)]
            wanted = [name for name in fits if excuse.result in (SUCCESS, *ERRNOS[name])]
            assert any(excuse.result not in covered[name] for name in wanted), (excuse, pattern)


@pytest.mark.long  # all programs run twice, once below strace: a minute
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_programs_provoke_what_the_table_says() -> None:
    recorded = read(call_coverage.table(record_all(tuple(call_coverage.PROGRAMS))))
    lost = {name: results - recorded[name] for name, results in read(TABLE.read_text()).items()}
    assert {name: results for name, results in lost.items() if results} == {}, WRITE
