"""Cases that our runtime refuses, each with its row of docs/differences.md and the message of the refusal.

A case that is here is played all the same: it has to be refused with that message. One that passes has no place here.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """
    :param row: the name of the row in docs/differences.md
    :param message: pattern of what the runtime says
    """

    row: str
    message: str


HOOKS = Difference("hooks", r"hooks\.(createContainer|startContainer): the container's namespaces are in its virtual")
HOST_NETWORK = Difference(
    "host-network", "without a network namespace of its own, the container would have the host's network"
)

DIFFERENCES: dict[str, Difference] = {
    "hooks/create-container": HOOKS,
    "hooks/start-container": HOOKS,
    "config-linux/namespaces/network-none": HOST_NETWORK,
    "podman/namespaces/network-host": HOST_NETWORK,
}
