"""``pyvmm run``: a container in a virtual machine of its own, by the package pyvmm-kata of examples/kata."""

from __future__ import annotations

from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from types import ModuleType

PACKAGE = "pyvmm_kata"


def _command() -> ModuleType:
    """
    :raises ConfigError: the package is not installed
    """
    from importlib import import_module

    try:
        return import_module(f"{PACKAGE}.run")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != PACKAGE:
            raise
        raise ConfigError(
            "pyvmm run needs the container runtime, which is not installed",
            code="run-missing",
            hint="pip install ./examples/kata",
        ) from error


def parser() -> argparse.ArgumentParser:
    """For help and shell completion; without options where the package is not installed."""
    import argparse

    try:
        made: argparse.ArgumentParser = _command().parser()
    except ConfigError:
        made = argparse.ArgumentParser(prog="pyvmm run")
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status.

    :raises ConfigError: the package is not installed, or what the user wants cannot be
    """
    status: int = _command().main(argv)
    return status
