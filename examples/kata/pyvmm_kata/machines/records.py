"""Machines by their names: containers below a root, with the records of ``pyvmm run -d`` and of sandboxes."""

from __future__ import annotations

import calendar
import json
import os
import select
import time
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata import state
from pyvmm_kata.bundle.settings import ISOLATION, PUBLISH
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.oci.context import default_root

if TYPE_CHECKING:
    from pyvmm_kata.state import Json

BUNDLE = "pyvmm-run-"
"""Begins the folder with the config.json of a container of ``pyvmm run``."""
_RECORD, _SANDBOX, _EXPIRES = "machine.json", "sandbox.json", "sandbox-expires"
_BUNDLES = (BUNDLE, "pyvmm-container-", "pyvmm-sandbox-")
_CLOSE = 3


class Machine(NamedTuple):
    """A container that there is.

    :ivar folder: of its state
    :ivar state: ``creating``, ``created``, ``running``, ``paused`` or ``stopped``
    :ivar exit_status: of a stopped one; None: unknown
    :ivar image: empty: unknown
    :ivar created: seconds since 1970
    :ivar expires: when it is killed, likewise; None: never
    :ivar bundle: the folder that is removed with it; empty: another program's
    """

    name: str
    folder: str
    state: str
    exit_status: int | None
    image: str
    command: list[str]
    created: float
    isolation: str
    ports: list[str]
    expires: float | None
    pid: int
    started: int
    bundle: str

    def expect(self, *states: str) -> None:
        """
        :raises ConfigError: it is in none of these states
        """
        if self.state not in states:
            raise ConfigError(
                f"{self.name} is {self.state}, not {' or '.join(states)}",
                code="container-state",
                hint=_HINTS[self.state],
            )

    def wait(self, seconds: float) -> bool:
        """Whether it ends within these seconds."""
        try:
            fd = os.pidfd_open(self.pid)
        except (ProcessLookupError, ValueError):
            return True
        try:
            ended = select.poll()
            ended.register(fd, select.POLLIN)
            return not state.is_alive(self.pid, self.started) or bool(ended.poll(seconds * 1000))
        finally:
            os.close(fd)


_HINTS = {
    "creating": "wait until it is made",
    "created": "pyvmm-oci start runs its program",
    "running": "stop it first, or use --force",
    "paused": "pyvmm-oci resume continues it",
    "stopped": "pyvmm ps -a lists it; pyvmm rm removes it",
}


def root_of(given: str) -> str:
    """The folder of all states.

    :param given: by ``--root``
    """
    return os.path.abspath(given or default_root())


def write(folder: str, **fields: str | bool | list[str]) -> None:
    """Record the part of a machine that its state does not have: ``image``, ``isolation``, ``bundle``.

    :raises OSError: it cannot be written
    """
    path = os.path.join(folder, _RECORD)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(fields, file)
    os.rename(f"{path}.new", path)


def describe(folder: str) -> Machine:
    """
    :raises ConfigError: no container has its state there
    """
    known = state.read(folder)
    own, sandbox = _read(folder, _RECORD), _read(folder, _SANDBOX)
    annotations = known["annotations"]
    return Machine(
        name=known["id"],
        folder=folder,
        state=known["status"],
        exit_status=known.get("exitStatus") if known["status"] == "stopped" else None,
        image=str(own.get("image") or sandbox.get("image") or ""),
        command=list(known["process"].get("args") or ()),
        created=_seconds(known["created"]),
        isolation=str(annotations.get(ISOLATION) or own.get("isolation") or "vm"),
        ports=annotations.get(PUBLISH, "").split(),
        expires=_expiry(folder),
        pid=known["pid"],
        started=known["startTime"],
        bundle=_own_bundle(known) if own or sandbox else "",
    )


def describe_all(root: str) -> list[Machine]:
    """All machines, the oldest first.

    :param root: the option ``--root``
    """
    root = root_of(root)
    found = []
    for name in _names(root):
        try:
            found.append(describe(os.path.join(root, name)))
        except ConfigError:
            pass  # it is being made or removed
    return sorted(found, key=lambda each: (each.created, each.name))


def find(root: str, name: str) -> Machine:
    """The machine of this name, or the only one whose name begins so.

    :param root: the option ``--root``
    :raises ConfigError: there is none, or there are several
    """
    root = root_of(root)
    names = [each for each in _names(root) if os.path.exists(os.path.join(root, each, state.FILE))]
    fits = [name] if name in names else [each for each in names if name and each.startswith(name)]
    if len(fits) == 1:
        return describe(os.path.join(root, fits[0]))
    if fits:
        shown = ", ".join(sorted(fits)[:_CLOSE]) + (", ..." if len(fits) > _CLOSE else "")
        raise ConfigError(f"{name!r:.80} is the beginning of {len(fits)} names", code="container-name", hint=shown)
    from difflib import get_close_matches

    close = get_close_matches(name, names, _CLOSE)
    hint = f"there is {', '.join(close)}" if close else "pyvmm ps -a lists all"
    raise ConfigError(f"no container {name!r:.80}", code="container-missing", hint=hint)


def _names(root: str) -> list[str]:
    try:
        return [name for name in os.listdir(root) if not name.startswith("@")]  # those are of machines
    except OSError:
        return []


def _read(folder: str, name: str) -> Json:
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _expiry(folder: str) -> float | None:
    try:
        with open(os.path.join(folder, _EXPIRES), encoding="utf-8") as file:
            return float(file.read())
    except (OSError, ValueError):
        return None


def _seconds(text: str) -> float:
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) + float(f"0{text[19:26]}")


def _own_bundle(known: Json) -> str:
    """A copy of a sandbox has a bundle of its name."""
    name = os.path.basename(known["bundle"])
    return str(known["bundle"]) if name.startswith(_BUNDLES) or name == known["id"] else ""
