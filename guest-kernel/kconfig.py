"""Reads kernel configurations: the fragments of config/ and the .config that Kconfig made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from recipe import RecipeError

_SET = re.compile(r"(CONFIG_[A-Za-z0-9_]+)=(.+)$")
_UNSET = re.compile(r"# (CONFIG_[A-Za-z0-9_]+) is not set$")


def parse_config(text: str, name: str, *, strict: bool = False) -> dict[str, str]:
    """Options of a configuration, `# CONFIG_X is not set` as "n". `name` is the file's name, for errors.

    With `strict` (our fragments) a line that is neither option, comment nor empty is an error, and so is an option
    that is given twice: Kconfig itself would drop either in silence.
    """
    options: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if unset := _UNSET.match(line):
            option, value = unset[1], "n"
        elif given := _SET.match(line):
            option, value = given[1], given[2]
        elif strict and line and (not line.startswith("#") or line.startswith("# CONFIG_")):
            raise RecipeError(
                f"{name}:{number}: `{line}` is not an option",
                "write CONFIG_X=value or `# CONFIG_X is not set`; a comment must not begin with CONFIG_",
            )
        else:
            continue
        if strict and option in options:
            raise RecipeError(f"{name}:{number}: {option} is given twice", "delete one of the two lines")
        options[option] = value
    return options


def read_fragments(folder: Path) -> dict[str, str]:
    """The options of every *.config in `folder`. Raises RecipeError for a bad line or an option in two files."""
    files = sorted(folder.glob("*.config"))
    if not files:
        raise RecipeError(f"{folder} has no *.config file")
    options: dict[str, str] = {}
    for file in files:
        for option, value in parse_config(file.read_text(), file.name, strict=True).items():
            if option in options:
                raise RecipeError(f"{file.name}: {option} is already in another fragment", "delete one of the two")
            options[option] = value
    return options


def read_changes(folder: Path) -> list[tuple[list[int], dict[str, str]]]:
    """What other versions of Linux need in place of the options of `folder`: from which version on, and which options.

    They are in since/X.Y.config, the oldest first.
    """
    files = {tuple(map(int, file.stem.split("."))): file for file in (folder / "since").glob("*.config")}
    return [
        (list(since), parse_config(file.read_text(), f"since/{file.name}", strict=True))
        for since, file in sorted(files.items())
    ]


def render(options: Mapping[str, str]) -> str:
    """One configuration file of `options`, sorted: what comments say does not change what is built."""
    lines = (f"# {o} is not set" if v == "n" else f"{o}={v}" for o, v in sorted(options.items()))
    return "\n".join(lines) + "\n"


def verify(wanted: Mapping[str, str], got: Mapping[str, str]) -> None:
    """Check that Kconfig kept each wanted option. Raises RecipeError that names those it dropped or changed."""
    lost = [
        f"{option}={value} (became {got.get(option, 'n')})"
        for option, value in sorted(wanted.items())
        if got.get(option, "n") != value
    ]
    if lost:
        raise RecipeError(
            f"this kernel source does not accept {len(lost)} of the options: " + ", ".join(lost),
            "a dependency is missing or the option was renamed: look it up with `make menuconfig` (key /)",
        )
