"""Which kind of isolation a container gets: a virtual machine with Linux, or the Sentry, a kernel that needs no KVM."""

from __future__ import annotations

import contextlib
import functools
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pyvmm_kata.bundle import settings
from pyvmm_kata.errors import ConfigError, VmmError
from vmm import kvm_verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

ISOLATIONS = ("auto", *settings.GUESTS)
_OF_MACHINES = ("kernel-file", "image-file", "kvm-", "agent-")
"""How the codes of errors begin that a host without KVM can lead to."""


def choose(wanted: str) -> str:
    """``vm`` or ``sentry``.

    :param wanted: one of :data:`ISOLATIONS`; ``auto``: a virtual machine, where KVM can run one
    :raises ConfigError: it is none of them
    """
    if wanted not in ISOLATIONS:
        raise ConfigError(f"isolation {wanted!r:.60} is not one of {', '.join(ISOLATIONS)}", code="isolation")
    return best() if wanted == "auto" else wanted


@contextlib.contextmanager
def way_out() -> Iterator[None]:
    """Where KVM cannot run a virtual machine, the hint of an error that one leads to names the Sentry."""
    try:
        yield
    except VmmError as error:
        if error.code.startswith(_OF_MACHINES) and best() == "sentry":
            found = "KVM runs no virtual machine here: --isolation sentry needs none"
            error.hint = f"{found}; or {error.hint}" if error.hint else found
        raise


@functools.cache
def best() -> str:
    """A virtual machine, unless KVM cannot run one here and the Sentry is installed."""
    verdict = kvm_verdict(remembered=True)
    if verdict.usable or find_spec("pyvmm_sentry") is None:  # without both, the error of the machine has a hint
        return "vm"
    logging.getLogger(__name__).info("containers run on the Sentry, without a virtual machine: %s", verdict.detail)
    return "sentry"
