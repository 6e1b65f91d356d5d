"""Guests with a serial port."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.unit.devices.uart_guest import Guest


@pytest.fixture
def guests() -> Iterator[Callable[..., Guest]]:
    """Makes guests and closes them."""
    made: list[Guest] = []

    def make(out_fd: int = -1, *, drop: bool = False) -> Guest:
        made.append(Guest(out_fd, drop=drop))
        return made[-1]

    yield make
    for guest in made:
        guest.close()


@pytest.fixture
def guest(guests: Callable[..., Guest]) -> Guest:
    """One whose output goes nowhere."""
    return guests()
