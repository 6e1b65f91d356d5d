"""The user namespace of a container: which ids of the host its users and groups have."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.bundle.checks import namespace
from pyvmm_kata.errors import bad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.state import Json

MOST_IDS = (1 << 32) - 1
"""One more than the last id."""

MOST_MAPS = 8
"""Those of a :class:`vmm.ShareConfig`."""

Maps = tuple[tuple[int, int, int], ...]
"""``(container, host, count)`` of each."""


class IdMaps(NamedTuple):
    """The maps of users, and those of groups; empty: all ids are the host's."""

    users: Maps = ()
    groups: Maps = ()


NO_MAPS = IdMaps()


def id_maps(spec: Json) -> IdMaps:
    """The maps of a container's own user namespace.

    :raises ConfigError: there are none, or maps without such a namespace; or ids that do not exist, or that are there
        twice; or more maps than a share has (:class:`vmm.ShareConfig`)
    """
    linux = spec.get("linux") or {}
    found = IdMaps(*(_maps(linux, name) for name in ("uidMappings", "gidMappings")))
    entry = namespace(spec, "user")
    if entry is None:
        if found.users or found.groups:
            raise bad("linux.uidMappings", "maps of ids without a user namespace", "add one to linux.namespaces")
        return found
    if not entry.get("path") and not (found.users and found.groups):
        raise bad(
            "linux.uidMappings" if not found.users else "linux.gidMappings",
            "a new user namespace without maps of ids has no users",
            'for example [{"containerID": 0, "hostID": 100000, "size": 65536}]',
        )
    if max(map(len, found)) > MOST_MAPS:
        raise bad("linux.uidMappings", f"more than {MOST_MAPS} maps of ids, which the server of a share has")
    return found


def _maps(linux: Json, name: str) -> Maps:
    made = tuple((each["containerID"], each["hostID"], each["size"]) for each in linux.get(name) or ())
    for index, (inside, outside, count) in enumerate(made):
        if not count or max(inside, outside) + count > MOST_IDS:
            raise bad(f"linux.{name}[{index}]", f"{count} ids from {inside} and {outside} on do not exist")
    for side, what in ((0, "containerID"), (1, "hostID")):
        if _overlap(sorted((each[side], each[2]) for each in made)):
            raise bad(f"linux.{name}", f"two maps have the same {what}")
    return made


def _overlap(ranges: Sequence[tuple[int, int]]) -> bool:
    return any(first + count > following for (first, count), (following, _) in itertools.pairwise(ranges))
