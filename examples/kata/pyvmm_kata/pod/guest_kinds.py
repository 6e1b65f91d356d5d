"""The kinds of guests, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm_kata.errors import ConfigError
from pyvmm_kata.pod.linux_guest import LINUX
from pyvmm_kata.pod.sentry_guest import SENTRY

if TYPE_CHECKING:
    from pyvmm_kata.pod.guest_kind import GuestKind

KINDS: dict[str, GuestKind] = {kind.name: kind for kind in (LINUX, SENTRY)}
"""All of them; a new one is added here."""


def kind_named(name: str) -> GuestKind:
    """The kind of guest of that name.

    :raises ConfigError: there is none
    """
    try:
        return KINDS[name]
    except KeyError:
        raise ConfigError(f"there is no kind of guest {name!r:.60}", code="guest-kind") from None
