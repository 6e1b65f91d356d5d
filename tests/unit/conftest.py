"""What the tests of several folders have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tiny import Console


@pytest.fixture
def console() -> Iterator[Console]:
    """Of a machine; it is read and written by the test."""
    made = Console()
    yield made
    made.close()
