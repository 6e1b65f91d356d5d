"""The phases of a sandbox's start, as the server sees them: what they took answers why a start was slow."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from pyvmm_server import metrics, traces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyvmm_server.store import Phase

SAVE, PREPARE, START = "save the parent", "find the template", "start the sandbox"
_LABELS = {SAVE: "save", PREPARE: "find", START: "start"}
"""In figures and traces."""


class Phases:
    """Times the phases: for the sandbox's record, the figures and the trace.

    :param found: that have ended before, as the save of a parent for all of its forks
    :ivar found: those that have ended
    """

    def __init__(self, found: Iterable[Phase] = ()) -> None:
        self.found = [*found]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The phase that the block is."""
        began = time.monotonic()
        with traces.span(f"create: {_LABELS[name]}"):
            try:
                yield
            finally:
                ended = time.monotonic()
                self.found.append((name, began, ended))
                metrics.PHASES.labels(_LABELS[name]).observe(ended - began)
