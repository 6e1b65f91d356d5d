"""The files that guests boot from: paths in this package, which its build has filled (``setup.py``)."""

_FILES = __file__.rpartition("/")[0] + "/files"


def kernel() -> str:
    """The Linux kernel, an ELF vmlinux for ``pyvmm boot --kernel``, :class:`vmm.BootConfig` and ``kata.toml``."""
    return f"{_FILES}/vmlinux"


def image() -> str:
    """The image of the container runtime's guest, an erofs with the agent and crun, for ``kata.toml``."""
    return f"{_FILES}/kata.erofs"


def sources() -> str:
    """The folder that tells what the files are made of.

    ``packages`` lists the distribution's packages with their source packages and versions, ``licenses`` their terms;
    ``kernel`` has the configuration, ``recipe`` the scripts, options and patches.
    """
    return f"{_FILES}/sources"
