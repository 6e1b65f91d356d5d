"""Lines that a sandbox sends on a socket.  The sender is not trusted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pyvmm_sandbox.errors import SandboxError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

_PIECE = 1 << 16


def read_lines(
    sock: socket.socket, deadline: float | None, *, line_most: int, most: int | None = None
) -> Iterator[bytes]:
    """Yield each line without its newline until the connection ends.  An unfinished last line is dropped.

    :param deadline: on the clock of :func:`time.monotonic`; None: wait forever
    :param line_most: most bytes of a line
    :param most: most bytes of all lines
    :raises TimeoutError: the connection has not ended at the deadline
    :raises SandboxError: more bytes than these
    """
    data = bytearray()
    total = 0
    while True:
        if deadline is not None:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            more = sock.recv(_PIECE)
        except ConnectionError:
            return
        if not more:
            return
        total += len(more)
        if most is not None and total > most:
            raise SandboxError(f"the sandbox sent more than {most} bytes", hint="print less")
        at = len(data)
        data += more
        while (end := data.find(b"\n", at)) >= 0:
            yield bytes(data[:end])
            del data[: end + 1]
            at = 0
        if len(data) > line_most:
            raise SandboxError(f"the sandbox sent a line of more than {line_most} bytes")
