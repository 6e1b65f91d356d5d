"""Which kind of isolation a container gets: a virtual machine with Linux, or the Sentry, a kernel that needs no KVM."""

from __future__ import annotations

import functools
import logging
from importlib.util import find_spec

from pyvmm_kata.bundle import settings
from pyvmm_kata.errors import ConfigError
from vmm import kvm_verdict

ISOLATIONS = ("auto", *settings.GUESTS)


def choose(wanted: str) -> str:
    """``vm`` or ``sentry``.

    :param wanted: one of :data:`ISOLATIONS`; ``auto``: a virtual machine, where KVM can run one
    :raises ConfigError: it is none of them
    """
    if wanted not in ISOLATIONS:
        raise ConfigError(f"isolation {wanted!r:.60} is not one of {', '.join(ISOLATIONS)}", code="isolation")
    return best() if wanted == "auto" else wanted


@functools.cache
def best() -> str:
    """A virtual machine, unless KVM cannot run one here and the Sentry is installed."""
    verdict = kvm_verdict(remembered=True)
    if verdict.usable or find_spec("pyvmm_sentry") is None:  # without both, the error of the machine has a hint
        return "vm"
    logging.getLogger(__name__).info("containers run on the Sentry, without a virtual machine: %s", verdict.detail)
    return "sentry"
