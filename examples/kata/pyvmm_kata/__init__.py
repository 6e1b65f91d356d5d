"""Containers, each pod in a virtual machine of its own: an OCI runtime and a containerd shim on pyvmm's public API.

:class:`Container` is a container for programs; ``pyvmm-oci``, ``pyvmm run`` and ``containerd-shim-pyvmm-v2`` are for
people and other runtimes.  :class:`pyvmm_kata.pod.sandbox.Sandbox` is a virtual machine with its containers.

The public names are here; each is imported when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm_kata.containers import PIPE as PIPE
    from pyvmm_kata.containers import WINDOW as WINDOW
    from pyvmm_kata.containers import Container as Container
    from pyvmm_kata.containers import Process as Process

__all__ = ["PIPE", "WINDOW", "Container", "Process"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pyvmm_kata import containers

    return getattr(containers, name)
