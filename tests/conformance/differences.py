"""Cases that differ from runc on purpose, each with its row of docs/reference/differences.md and how that shows.

A case that is here is played all the same: it has to be refused with the message, or to show what the row says. One
that passes has no place here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.conformance.suite import Check, Observation, equal, lacks, matches


class Difference(NamedTuple):
    """
    :param row: what stands in the first column of the row in docs/reference/differences.md, or a part of it
    :param message: pattern of what the runtime says when it refuses the case
    :param shows: what is seen where it is not refused
    """

    row: str
    message: str = ""
    shows: Check | None = None

    def holds(self, seen: Observation) -> bool:
        """Whether what was seen is this difference."""
        if self.message:
            return re.search(self.message, seen.get("errors", "")) is not None
        return self.shows is not None and self.shows(seen)


HOOK = Difference("hooks", message=r"hooks\.createContainer: ")
NETWORK = Difference("`--network host`", message="(would|cannot) have the host's network")
PATH = Difference(
    "namespaces by path",
    message="namespace is (the host's, or that of a container in another virtual machine"
    "|another container's, whose virtual machine has one network)",
)
BIDIRECTIONAL = Difference("`shared`", message="what a guest mounts cannot appear on the host")
HOST = "namespaces of the host"

DEVICES = "devices, pipes"
CONNECT = "`podman network connect` while it runs"
STATS = "podman/limits/stats"
SOCKET_PEER = "podman/mount/socket-peer"

DIFFERENCES: dict[str, Difference] = {
    "config-linux/devices/of-the-host": Difference(DEVICES, message="the guest has no such device"),
    "config/mounts/pipe": Difference(DEVICES, message="a device or a pipe of the host cannot be given to a guest"),
    "config/mounts/procfs": Difference("`/proc`, `/sys` and `/dev`", message="the host's kernel has this file"),
    "runtime/state/pid-program": Difference("the pid of a container", shows=matches("comm", "^pyvmm-face$")),
    "command/update/memory-above": Difference("memory above", shows=equal("enough", "")),
    "podman/privileged/devices": Difference("`--privileged`", shows=equal("podman/privileged/devices $?", "1")),
    STATS: Difference("the pid of a container", shows=matches(STATS, r"^c \d+ .* / [1-9]\d\d\.\dMB$")),
    SOCKET_PEER: Difference("unix sockets", shows=matches(SOCKET_PEER, "^0$")),
    "podman/network/connect": Difference(CONNECT, shows=lacks("podman/network/connect", "eth1")),
    "podman/mount/locked": Difference("locks of files", shows=equal("podman/mount/locked $?", "0")),
    "hooks/create-container": HOOK,
    "config-linux/namespaces/network-none": NETWORK,
    "config-linux/namespaces/pid-none": Difference(HOST, shows=matches("pid", r"^\d+$")),
    "config-linux/namespaces/pid-path": PATH,
    "config-linux/namespaces/ipc-path": PATH,
    "config-linux/namespaces/uts-path": PATH,
    "podman/namespaces/network-host": NETWORK,
    "podman/namespaces/pid-container": PATH,
    "podman/namespaces/ipc-container-seen": PATH,
    "podman/namespaces/uts-container": PATH,
    "podman/namespaces/pid-host": Difference(HOST, shows=matches("podman/namespaces/pid-host", "^0$")),
    "cri/propagation/bidirectional": BIDIRECTIONAL,
    "cri/namespaces/network-node": NETWORK,
    "cri/namespaces/pid-node": Difference(HOST, shows=matches("processes", "PID")),
    "cri/namespaces/ipc-node": Difference(HOST, shows=matches("queues?", r"^\d+$")),
}
