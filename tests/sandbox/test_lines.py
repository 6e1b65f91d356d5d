"""Lines of a sandbox that sends anything."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from pyvmm_sandbox.errors import SandboxError
from pyvmm_sandbox.lines import read_lines
from tests.kata.oci_runtime import PATIENCE


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def later() -> float:
    return time.monotonic() + PATIENCE


def test_lines_arrive_in_pieces_and_several_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    lines = read_lines(ours, later(), line_most=10)
    theirs.sendall(b"a\n\nbc")
    assert [next(lines), next(lines)] == [b"a", b""]
    theirs.sendall(b"d\nlost")
    theirs.close()
    assert [*lines] == [b"bcd"]


def test_a_line_without_an_end_is_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"x" * 11)
    with pytest.raises(SandboxError, match="a line of more than 10 bytes"):
        next(read_lines(ours, later(), line_most=10))


def test_all_lines_together_have_a_limit(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    lines = read_lines(ours, later(), line_most=10, most=15)
    theirs.sendall(b"12345678\n")
    assert next(lines) == b"12345678"
    theirs.sendall(b"12345678\n")
    with pytest.raises(SandboxError, match="more than 15 bytes"):
        next(lines)


def test_a_sender_that_sends_nothing_is_not_waited_for(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        next(read_lines(pair[0], time.monotonic(), line_most=10))
