"""What a monitor keeps of its start while its guest runs."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from tests import tiny
from tests.command import PATIENCE, Command

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")


def programs_kib(pid: int) -> int:
    """How much process *pid* has mapped of text and constants (proc(5), smaps)."""
    smaps = Path(f"/proc/{pid}/smaps").read_text()
    found = re.findall(r"^\S+ r-[-x]p \S+ \S+ \S+ +/.*\n(?:\S+:.*\n)*?Rss: +(\d+) kB$", smaps, re.MULTILINE)
    return sum(map(int, found))


def test_programs_that_only_the_start_needed_are_unmapped(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO)
    command = Command(tmp_path, "--kernel", kernel)
    try:
        command.expect("hello\n")
        started = programs_kib(command.process.pid)
        assert started > 1024, "or nothing is seen here"
        deadline = time.monotonic() + PATIENCE
        while programs_kib(command.process.pid) > started / 2:
            assert time.monotonic() < deadline, f"{programs_kib(command.process.pid)} of {started} KiB"
            time.sleep(0.1)
        command.type(b"typed\n\4")
        assert command.wait() == 0
        assert command.text == "hello\ntyped\n\4"
    finally:
        command.close()
