"""What isolates a sandbox: a virtual machine with Linux, or the Sentry, a kernel that needs no KVM."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pyvmm_sandbox.errors import UsageError
from vmm import kvm_verdict

if TYPE_CHECKING:
    from pyvmm_kata.pod.guest_kind import Capabilities

ISOLATIONS = ("auto", "vm", "sentry")


def choose(wanted: str) -> str:
    """``vm`` or ``sentry``.

    :param wanted: one of :data:`ISOLATIONS`; ``auto``: a virtual machine, where KVM can run one
    :raises UsageError: it is none of them
    """
    if wanted not in ISOLATIONS:
        raise UsageError(f"isolation {wanted!r:.60} is not one of {', '.join(ISOLATIONS)}")
    return _best() if wanted == "auto" else wanted


@functools.cache
def _best() -> str:
    verdict = kvm_verdict(remembered=True)
    if verdict.usable or find_spec("pyvmm_sentry") is None:  # without both, the error of the machine has a hint
        return "vm"
    import logging

    logging.getLogger("pyvmm_sandbox").info(
        "sandboxes run on the Sentry, without a virtual machine: %s", verdict.detail
    )
    return "sentry"


def can_forward(isolation: str) -> bool:
    """Whether a machine leads connections of the host to servers inside."""
    return _can(isolation).forwarding


def _can(isolation: str) -> Capabilities:
    from pyvmm_kata.bundle.settings import GUESTS
    from pyvmm_kata.pod.guest_kinds import kind_named

    return kind_named(GUESTS[isolation]).can
