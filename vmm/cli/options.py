"""Command line options as a table, read by a small parser on the start-up path and by argparse for everything else.

Importing argparse and building a parser takes a third of the time that ``pyvmm boot`` needs to reach the guest.  So
:func:`parse_fast` reads the plain case, ``--flag value`` and ``--flag=value`` with flags of the table. Everything else
(help, abbreviations, mistakes) goes to :func:`parser`, which is made from the same table.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from vmm.options.syntax import Syntax
    from vmm.virtio.registry import BuiltIn


class Option:
    """One flag.

    :param metavar: placeholder of its value in the help; empty for a switch
    :param many: may be given several times; the value is a list
    :param choices: the values that are allowed
    :param complete: ``file`` or ``directory``, for shell completion
    """

    syntax: Syntax | None = None
    """What may be in its value, where that is a list."""

    def __init__(
        self,
        flag: str,
        metavar: str,
        text: str,
        *,
        default: str | None = None,
        many: bool = False,
        required: bool = False,
        choices: tuple[str, ...] = (),
        complete: str = "",
    ) -> None:
        self.flag = flag
        self.name = flag.lstrip("-").replace("-", "_")
        self.metavar = metavar
        self.text = text
        self.default = default
        self.many = many
        self.required = required
        self.choices = choices
        self.complete = complete

    def explained(self) -> Option:
        """The same with all texts for help and completion."""
        return self


class DeviceOption(Option):
    """The flag of a built-in device. The device's package provides its help text when it is needed."""

    def __init__(self, device: BuiltIn) -> None:
        super().__init__(device.flag, "VALUE", "", many=True)
        self.device = device

    def explained(self) -> Option:
        syntax = self.device.syntax()
        found = Option(self.flag, syntax.first or "SPEC", syntax.text, many=True, complete=syntax.of)
        found.syntax = syntax
        return found


def parse_fast(options: tuple[Option, ...], argv: list[str], positional: str = "") -> dict[str, Any] | None:
    """The values by name, or None when *argv* is not plain.

    :param positional: the name of the one positional argument, which is required
    """
    table = {option.flag: option for option in options}
    values: dict[str, Any] = {o.name: ([] if o.many else False if not o.metavar else o.default) for o in options}
    words = iter(argv)
    for word in words:
        if positional and word[:1] != "-":
            if positional in values:
                return None
            values[positional] = word
            continue
        flag, equals, value = word.partition("=")
        option = table.get(flag)
        if option is None or (equals and not option.metavar):
            return None
        if not option.metavar:
            values[option.name] = True
            continue
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                return None
        if option.choices and value not in option.choices:
            return None
        if option.many:
            values[option.name].append(value)
        else:
            values[option.name] = value
    if any(option.required and values[option.name] is None for option in options):
        return None
    if positional and positional not in values:
        return None
    return values


def parser(prog: str, description: str, options: tuple[Option, ...], epilog: str = "") -> argparse.ArgumentParser:
    """The argparse twin of :func:`parse_fast`."""
    import argparse

    result = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option in [each.explained() for each in options]:
        if not option.metavar:
            result.add_argument(option.flag, action="store_true", help=option.text)
            continue
        action = result.add_argument(
            option.flag,
            metavar=option.metavar,
            help=option.text,
            default=[] if option.many else option.default,
            action="append" if option.many else "store",
            required=option.required,
            choices=option.choices or None,
        )
        action.complete = option.complete  # type: ignore[attr-defined]
        action.syntax = option.syntax  # type: ignore[attr-defined]
    return result


def add_vm(made: argparse.ArgumentParser) -> None:
    """The argument that names a running machine, for commands that send it a request."""
    made.add_argument("vm", metavar="VM", help="the control socket of the machine").complete = "file"  # type: ignore[attr-defined]


def parse(
    prog: str,
    description: str,
    options: tuple[Option, ...],
    argv: list[str],
    epilog: Callable[[], str] = str,
) -> dict[str, Any]:
    """The values by name; prints help or a usage error and exits as argparse does.

    :param epilog: generates the last part of the help
    """
    values = parse_fast(options, argv)
    if values is None:
        values = vars(parser(prog, description, options, epilog()).parse_args(argv))
    return values
