"""Folders of killed monitors, which all who remove a container remove."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyvmm_kata.oci import shared_machine

AT_ONCE = 8


def test_several_remove_the_same_folders(tmp_path: Path) -> None:
    for number in range(50):
        for name in ("mounts", "shared"):
            (tmp_path / f"@{10_000_000 + number}-1" / name / "sub").mkdir(parents=True)
    together = threading.Barrier(AT_ONCE)

    def sweep(_: int) -> None:
        together.wait()
        shared_machine.sweep(str(tmp_path))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(sweep, range(AT_ONCE)))
    assert os.listdir(tmp_path) == []
