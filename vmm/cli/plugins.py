"""Commands of ``pyvmm`` that other packages bring, by the entry point group ``pyvmm.commands``.

The value of an entry point is the name of a module with three names: ``SUMMARY``, a line for ``pyvmm --help``;
``parser()``, the ``argparse.ArgumentParser`` for help and shell completion; ``main(argv)``, which runs the command and
returns its exit status.  A command of ``pyvmm`` itself cannot be replaced.

The entry point group ``pyvmm.doctor`` adds to the report of ``pyvmm doctor``: modules with a function
``capabilities()``, which returns records with the fields of :class:`vmm.cli.doctor.Capability`.

Only what is not built in is looked for here, so a boot pays nothing.  The files are read directly:
``importlib.metadata`` imports ``email``, ``csv`` and ``zipfile``, which takes longer than Python's own start.
"""

from __future__ import annotations

import os
import sys

from vmm.cli.commands import COMMANDS
from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any, Protocol

    class Command(Protocol):
        """The module of a command."""

        SUMMARY: str

        def parser(self) -> argparse.ArgumentParser:
            """For help and shell completion."""

        def main(self, argv: list[str]) -> int:
            """Run the command; returns its exit status."""


GROUP, DOCTOR = "pyvmm.commands", "pyvmm.doctor"
GUEST_PACKAGE = "make wheels ARGS=pyvmm-guest; pip install --no-index --find-links dist pyvmm-guest"
"""The commands that install the kernel and the image, in a checkout."""
_RUNTIME = ("the container runtime", "pip install ./examples/kata")
PACKAGES = {
    "attach": _RUNTIME,
    "cp": _RUNTIME,
    "exec": _RUNTIME,
    "firecracker": ("Firecracker's interface", "pip install ./examples/firecracker"),
    "image": _RUNTIME,
    "kill": _RUNTIME,
    "logs": _RUNTIME,
    "mcp": ("the MCP server", "pip install ./examples/sandbox ./examples/mcp"),
    "ps": _RUNTIME,
    "rm": _RUNTIME,
    "run": _RUNTIME,
    "serve": ("the server", "pip install ./examples/sandbox ./examples/server"),
    "stats": _RUNTIME,
    "stop": _RUNTIME,
    "top": _RUNTIME,
}
"""Commands of this project's own packages: what each needs, and how it is installed."""


def entry_points(path: Sequence[str] | None = None, group: str = GROUP) -> dict[str, str]:
    """The entry points of a group in all installed packages, and the module of each; not those of built-in commands.

    :param path: folders to search, the first one wins; ``sys.path`` by default
    """
    found: dict[str, str] = {}
    for folder in sys.path if path is None else path:
        try:
            names = sorted(os.listdir(folder or "."))
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                try:
                    with open(f"{folder or '.'}/{name}/entry_points.txt", encoding="utf-8") as file:
                        text = file.read()
                except (OSError, ValueError):
                    continue
                for entry, module in _entries_in(text, group):
                    found.setdefault(entry, module)
    built_in = COMMANDS if group == GROUP else ()
    return {entry: module for entry, module in sorted(found.items()) if entry not in built_in}


def _entries_in(text: str, group: str) -> list[tuple[str, str]]:
    """Of an ``entry_points.txt``."""
    found = []
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]").strip()
        elif section == group and "=" in line and line[0] not in "#;":
            name, _, value = line.partition("=")
            found.append((name.strip(), value.strip()))
    return found


def _load(what: str, module: str) -> Any:
    """
    :param what: for the error
    :raises ConfigError: its package is installed, but cannot be imported
    """
    try:
        try:
            __import__(module)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0]:
                raise
            import site  # an editable install is known to `site` alone, which pyvmm starts without

            site.main()
            __import__(module)
    except ImportError as error:
        raise ConfigError(f"{what} cannot be loaded: {error}", code="command-broken") from error
    return sys.modules[module]


def external_command(name: str) -> Command | None:
    """The command that another package brings under this name; None: no package does.

    :raises ConfigError: a package of this project would, but is not installed, or the command cannot be imported
    """
    module = entry_points().get(name)
    if module is not None:
        command: Command = _load(f"the command {name}", module)
        return command
    if name in PACKAGES:
        needed, hint = PACKAGES[name]
        raise ConfigError(f"pyvmm {name} needs {needed}, which is not installed", code="command-missing", hint=hint)
    return None


def _load_all(group: str, what: str) -> dict[str, Any]:
    """The modules of a group that can be loaded; reports the others on standard error."""
    found = {}
    for name, module in entry_points(group=group).items():
        try:
            found[name] = _load(f"{what} {name}", module)
        except ConfigError as error:
            sys.stderr.write(f"pyvmm: {error}\n")
    return found


def external_commands() -> dict[str, Command]:
    """All that can be loaded."""
    return _load_all(GROUP, "the command")


def external_checks() -> list[Any]:
    """The modules that add to the report of ``pyvmm doctor``."""
    return list(_load_all(DOCTOR, "the check").values())
