"""Connects the host to servers that listen on the guest's loopback interface (linux-guest/agent/relay.h)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER_S = 40.0
"""Seconds to wait for the guest's answer: more than the agent's own timeout for the connection."""


def connect_to_port(dial: Callable[[], socket.socket], address: str, port: int) -> socket.socket | None:
    """Open a TCP connection to a port on the guest's loopback interface.  None: the guest refuses it.

    :param dial: connects to the agent's relay port
    :param address: a loopback address; the agent also tries that of the other family
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
