"""Paths of the kernel and the image that guests boot from; the package's build adds both files (``setup.py``)."""

_FILES = __file__.rpartition("/")[0] + "/files"


def kernel() -> str:
    """The Linux kernel, an ELF vmlinux for ``pyvmm boot --kernel``, :class:`vmm.BootConfig` and ``kata.toml``."""
    return f"{_FILES}/vmlinux"


def image() -> str:
    """The image of the container runtime's guest, an erofs with the agent and crun, for ``kata.toml``."""
    return f"{_FILES}/kata.erofs"


def sources() -> str:
    """The folder that documents the origin of both files.

    ``packages`` lists the distribution's packages with their source packages and versions; ``licenses`` contains their
    licences.  ``kernel`` contains the kernel's configuration; ``recipe`` contains build scripts, options and patches.
    """
    return f"{_FILES}/sources"
