from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.firecracker.program import Program


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    made = []

    def run(*flags: str, name: str = "one", wait: bool = True) -> Program:
        (tmp_path / name).mkdir()
        made.append(Program(tmp_path / name, *flags))
        if wait:
            made[-1].wait_for_socket()
        return made[-1]

    yield run
    for each in made:
        each.close()
