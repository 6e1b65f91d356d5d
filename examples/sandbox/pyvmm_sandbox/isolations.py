"""What isolates a sandbox: a virtual machine with Linux, or the Sentry, a kernel that needs no KVM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm_kata import isolation as of_containers
from pyvmm_kata.errors import ConfigError
from pyvmm_sandbox.errors import UsageError

if TYPE_CHECKING:
    from pyvmm_kata.pod.guest_kind import Capabilities


def choose(wanted: str) -> str:
    """``vm`` or ``sentry``, see :func:`pyvmm_kata.isolation.choose`.

    :raises UsageError: it is no isolation
    """
    try:
        return of_containers.choose(wanted)
    except ConfigError as error:
        raise UsageError(str(error)) from error


def can_forward(isolation: str) -> bool:
    """Whether a machine leads connections of the host to servers inside."""
    return _can(isolation).forwarding


def _can(isolation: str) -> Capabilities:
    from pyvmm_kata.bundle.settings import GUESTS
    from pyvmm_kata.pod.guest_kinds import kind_named

    return kind_named(GUESTS[isolation]).can
