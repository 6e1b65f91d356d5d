"""Connections from the host to TCP ports of the guest's loopback addresses (linux-guest/agent/relay.h)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER_S = 40.0
"""Seconds for the guest to report whether a server listens there: longer than its agent tries to connect."""


def connect_to_port(dial: Callable[[], socket.socket], address: str, port: int) -> socket.socket | None:
    """A connection to a port in the guest; None: nothing listens there.

    :param dial: makes a connection to the agent's port for this
    :param address: a loopback address; the agent tries the other family as well
    :raises OSError: the guest does not answer
    """
    v4 = bytes(4) if ":" in address else socket.inet_aton(address)
    server = dial()
    try:
        server.settimeout(ANSWER_S)
        server.sendall(v4 + port.to_bytes(2, "big"))
        if server.recv(1) == b"\0":
            server.settimeout(None)
            return server
    except BaseException:
        server.close()
        raise
    server.close()
    return None
