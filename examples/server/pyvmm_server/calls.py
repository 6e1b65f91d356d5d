"""A call of the control interface, and what its answers have in common."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pyvmm_server import bodies
from pyvmm_server.errors import ClientError
from pyvmm_server.settings import ENVD_VERSION

if TYPE_CHECKING:
    from starlette.requests import Request

    from pyvmm_server.builds import Builds
    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.settings import Settings
    from pyvmm_server.store import Record

LONGEST_S = 366 * 24 * 3600
CLIENT = "pyvmm"


class Call:
    """A request of a client with a valid key."""

    def __init__(self, sandboxes: Sandboxes, builds: Builds, owner: str, request: Request) -> None:
        self.sandboxes = sandboxes
        self.builds = builds
        self.settings: Settings = sandboxes.settings
        self.owner = owner
        self.request = request

    @property
    def record(self) -> Record:
        """The sandbox that the path names.

        :raises ClientError: this key has none
        """
        return self.sandboxes.get(self.owner, self.request.path_params["sandbox"])


def time_of(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def created(call: Call, record: Record) -> dict[str, Any]:
    return {
        "templateID": record.template,
        "sandboxID": record.id,
        "clientID": CLIENT,
        "envdVersion": ENVD_VERSION,
        "envdAccessToken": record.token,
        "trafficAccessToken": None,
        "domain": call.settings.domain,
    }


def listed(record: Record) -> dict[str, Any]:
    return {
        "templateID": record.template,
        "alias": record.template,
        "sandboxID": record.id,
        "clientID": CLIENT,
        "startedAt": time_of(record.started),
        "endAt": time_of(record.ends or record.started + LONGEST_S),
        "cpuCount": max(round(record.cpus), 1),
        "memoryMB": record.memory,
        "diskSizeMB": 0,
        "state": record.state,
        "envdVersion": ENVD_VERSION,
        "metadata": record.metadata,
        "volumeMounts": [{"name": each["name"], "path": each["path"]} for each in record.volumes],
    }


def seconds(body: dict[str, Any], name: str, default: int) -> int:
    found = bodies.take(body, name, int, default)
    if not 0 <= found <= LONGEST_S:
        raise ClientError(400, f"{name} {found} is not 0 to {LONGEST_S} seconds")
    return found
