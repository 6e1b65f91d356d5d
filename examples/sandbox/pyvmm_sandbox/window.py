"""Large files, through memory that the host shares with pyvmm-box (``guest/window.c``): a file with some parts, which
are used in turn.  Whoever fills one sends its length, and the other one answers with a byte when it is empty."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from pyvmm_kata import WINDOW
from pyvmm_sandbox.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm_sandbox.commands import Command

SLOTS = 4
SLOT = WINDOW // SLOTS
LEAST = 1 << 20
"""Bytes from which a file goes this way."""


def send(command: Command, view: memoryview) -> None:
    """Send a file. If it did not arrive as a whole, the status of the command is an errno.

    :param command: pyvmm-box's ``take``, with a window
    """
    waiting = 0
    with contextlib.suppress(BrokenPipeError, EOFError):  # it reports the reason by its status
        for number, at in enumerate(range(0, len(view), SLOT)):
            while waiting == SLOTS:
                waiting -= _taken(command)
            piece = view[at : at + SLOT]
            _fill(command.window, piece, number % SLOTS * SLOT)
            command.write(f"{len(piece)}\0")
            waiting += 1
        command.write("0\0")
    command.close_stdin()
    while command.is_open:
        command.read(None)


def _taken(command: Command) -> int:
    """How many parts are empty again.

    :raises EOFError: it has ended
    """
    if not command.is_open:
        raise EOFError
    return sum(len(event.data) for event in command.read(None) if event.kind == "stdout")


def _fill(fd: int, piece: memoryview, at: int) -> None:
    while piece:
        done = os.pwrite(fd, piece, at)
        piece, at = piece[done:], at + done


def receive(command: Command) -> Iterator[memoryview]:
    """The pieces of a file, each valid until the next one is requested.

    :param command: pyvmm-box's ``give``, with a window
    :raises ValueError: it sends something else
    :raises EOFError: it has ended without the end of the file; its status has the reason
    """
    stream, piece, at = Stream(command), memoryview(bytearray(SLOT)), 0
    while size := int(stream.field()):
        if not 0 < size <= SLOT or os.preadv(command.window, [piece[:size]], at) != size:
            raise ValueError(f"a piece of {size} bytes")
        with contextlib.suppress(BrokenPipeError):  # it needs no more answers
            command.write(b"x")
        yield piece[:size]
        at = (at + SLOT) % WINDOW
