"""What the guest mounts: the record that the mount plan and the agent's calls share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Storage(NamedTuple):
    """A storage that the agent mounts in the guest."""

    driver: str
    source: str
    fstype: str
    mount_point: str
    options: Sequence[str] = ()
    driver_options: Sequence[str] = ()
