"""The wire format between the lab's host side and the agent inside it.

A frame is a 9-byte header (kind: 1 byte, command id: u32 LE, payload length: u32 LE) and its payload. The agent imports
this file too, and it is imported by PID 1 over 9p, so nothing here needs more than builtins.
"""

from __future__ import annotations

HEADER_SIZE = 9
MAX_PAYLOAD = 64 * 1024
STDIN_WINDOW = 256 * 1024
"""Bytes of stdin that may be under way to one command and not yet taken by it: more would fill the agent's memory."""

# Host to agent.
START = 1  # payload: see pack_start
STDIN = 2  # bytes; an empty payload is end of file
SIGNAL = 3  # signal number in decimal, sent to the command's process group
WINDOW = 4  # "rows columns" in decimal
SHUTDOWN = 5  # flush what is written and answer BYE

# Agent to host.
READY = 16
STDOUT = 17
STDERR = 18
EXIT = 19  # exit status in decimal, 128 + N for a command that died of signal N
STDIN_TAKEN = 20  # bytes of stdin written to the command, in decimal
FAILED = 21  # why the command could not be started; EXIT follows
BYE = 22


def pack(kind: int, ident: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    return bytes((kind,)) + ident.to_bytes(4, "little") + len(payload).to_bytes(4, "little") + payload


def pack_start(argv: list[bytes], env: list[bytes], cwd: bytes, tty: tuple[int, int] | None) -> bytes:
    """The payload of START: NUL-separated fields (rows, columns, cwd, argument count, arguments, NAME=value...).

    `tty` is (rows, columns) of the terminal to make for the command, or None for pipes.
    """
    rows, columns = tty or (0, 0)
    fields = [b"%d" % rows, b"%d" % columns, cwd, b"%d" % len(argv), *argv, *env]
    return b"\0".join(fields)


class Parser:
    """Cuts a byte stream into frames: feed() it what was read, then iterate frames()."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Add `data`; return the frames that are now complete, as (kind, ident, payload)."""
        pending = self._pending
        pending += data
        frames = []
        start = 0
        while len(pending) - start >= HEADER_SIZE:
            ident = int.from_bytes(pending[start + 1 : start + 5], "little")
            end = start + HEADER_SIZE + int.from_bytes(pending[start + 5 : start + 9], "little")
            if len(pending) < end:
                break
            frames.append((pending[start], ident, bytes(pending[start + HEADER_SIZE : end])))
            start = end
        del pending[:start]
        return frames
