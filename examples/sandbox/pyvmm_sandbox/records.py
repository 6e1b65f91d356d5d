"""The records of a sandbox, files in the folder of its container's state."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.oci.context import default_root
from pyvmm_sandbox.errors import SandboxNotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPIRES = "sandbox-expires"
"""The file with the time when a sandbox ends, which ``pyvmm-box expire`` reads; without a number, it has none."""
_RECORD = "sandbox.json"
_METADATA_MOST = 64 << 10


@dataclass(frozen=True)
class Record:
    """The part that does not change.

    :ivar image: that it was made from
    :ivar detached: it does not end with the process that has made it
    :ivar created: seconds since 1970
    """

    image: str
    metadata: Mapping[str, str]
    detached: bool
    created: float

    def write(self, folder: str) -> None:
        """
        :raises OSError: it cannot be written
        """
        _write(os.path.join(folder, _RECORD), json.dumps(asdict(self)))


@dataclass(frozen=True)
class SandboxInfo:
    """A sandbox, as :meth:`Sandbox.list` reports it.

    :ivar name: its name
    :ivar state: ``created``, ``running``, ``paused`` or ``stopped``
    :ivar image: that it was made from
    :ivar metadata: as it was given
    :ivar created: seconds since 1970
    :ivar expires: when it is killed, likewise; None: never
    :ivar detached: it does not end with the process that has made it
    :ivar steps: of its start, and when each ended, in seconds of CLOCK_MONOTONIC; the first has the time before it, too
    """

    name: str
    state: str
    image: str
    metadata: Mapping[str, str]
    created: float
    expires: float | None
    detached: bool
    steps: tuple[tuple[str, float], ...] = ()


def new(image: str, metadata: Mapping[str, str] | None, detached: bool) -> Record:
    """
    :raises UsageError: the metadata is something else than texts, or too large
    """
    found = dict(metadata or {})
    if not all(isinstance(text, str) for pair in found.items() for text in pair):
        raise UsageError("metadata is not a mapping of texts to texts", hint='metadata={"owner": "tests"}')
    if len(json.dumps(found)) > _METADATA_MOST:
        raise UsageError(f"metadata has more than {_METADATA_MOST} bytes", hint="keep it in a file of the sandbox")
    return Record(image, found, detached, time.time())


def read(folder: str) -> Record:
    """
    :raises SandboxNotFound: no sandbox has its state there
    """
    try:
        with open(os.path.join(folder, _RECORD), encoding="utf-8") as file:
            return Record(**json.load(file))
    except (OSError, ValueError, TypeError) as error:
        name = os.path.basename(folder)
        raise SandboxNotFound(f"no sandbox {name!r:.80}", hint="it has ended, or was never detached") from error


def write_expiry(folder: str, at: float | None) -> None:
    """Change when it ends.

    :raises OSError: it cannot be written
    """
    _write(os.path.join(folder, EXPIRES), "" if at is None else f"{at:.3f}")


def read_expiry(folder: str) -> float | None:
    """When it ends; None: never."""
    try:
        with open(os.path.join(folder, EXPIRES), encoding="utf-8") as file:
            return float(file.read())
    except (OSError, ValueError):
        return None


def describe(folder: str) -> SandboxInfo:
    """
    :raises SandboxNotFound: no sandbox has its state there
    """
    record = read(folder)
    try:
        found = state.read(folder)
    except ConfigError as error:
        raise SandboxNotFound(f"sandbox {os.path.basename(folder)} has ended") from error
    name = os.path.basename(folder)
    return SandboxInfo(
        name,
        str(found["status"]),
        record.image,
        record.metadata,
        record.created,
        read_expiry(folder),
        record.detached,
        tuple((str(what), float(at)) for what, at in found.get("steps", ())),
    )


def describe_all(root: str) -> list[SandboxInfo]:
    """Those whose states are below *root*, the oldest first."""
    place = root or default_root()
    found = []
    for name in os.listdir(place) if os.path.isdir(place) else ():
        with contextlib.suppress(SandboxNotFound):  # a container of other programs, or one that ends now
            found.append(describe(os.path.join(place, name)))
    return sorted(found, key=lambda each: (each.created, each.name))


def _write(path: str, text: str) -> None:
    new_path = f"{path}.new"
    with open(new_path, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(new_path, path)
