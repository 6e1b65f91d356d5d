"""Which of the files with guest tests is for which of the labs that share them (tools/run_tests.py)."""

from __future__ import annotations

import os
from pathlib import Path

HOSTILE = frozenset(("test_clone_events.py", "test_immediate.py"))
"""Files whose tests run in a hostile lab alone, beside the others: clones, forks and devices that are used at once."""
RACES = HOSTILE | frozenset(
    f"test_{name}.py"
    for name in (
        *("console", "integrity", "library", "memory", "pci", "pmem", "snapshot", "vsock"),
        *("kata_agent", "kata_sockets"),
    )
)
"""A third of the files, for `make test-hostile`: of clones, forks, hand-over, hot-plug and teardown, which have races
to lose. They take an hour there. Those with many containers would take too long."""


def file_is_of_host(file: str) -> bool:
    """Does it look for leftovers on the whole host, or use its network?"""
    return Path(file).name.startswith(("test_kata_", "test_net."))


def file_is_hostile(file: str) -> bool:
    """Is it for the hostile lab alone?"""
    return Path(file).name in HOSTILE


class Claims:
    """Which files are whose, where several labs run the tests: a folder that all see, with a file for each.

    :ivar hostile: they are those of the hostile lab, whose name is ``hostile``
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder = folder
        self._owner = owner
        self.hostile = owner == "hostile"

    @classmethod
    def here(cls) -> Claims | None:
        """Those of PYVMM_TEST_CLAIMS, ``FOLDER:OWNER``."""
        folder, colon, owner = os.environ.get("PYVMM_TEST_CLAIMS", "").rpartition(":")
        return cls(Path(folder), owner) if colon else None

    def take(self, file: str) -> bool:
        """Take it; False when another has it or is to have it.  What was taken stays so when a lab is started again."""
        if file_is_hostile(file) != self.hostile:
            return False
        claim = self._folder / file.replace("/", ".")
        try:
            with claim.open("x") as new:
                new.write(self._owner)
        except FileExistsError:
            return claim.read_text() == self._owner
        return True
