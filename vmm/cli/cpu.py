"""``pyvmm cpu``: a template of the processor that guests see."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

PROG = "pyvmm cpu"
DESCRIPTION = "Print the processor that guests of this host see, as a template; or what templates have in common."
EPILOG = """\
A machine that was started with --cpu template:FILE can be saved on one host and restored on another whose KVM supports
the template.

example, with two hosts a and b:
  ssh a pyvmm cpu >a.json; ssh b pyvmm cpu >b.json
  pyvmm cpu a.json b.json >both.json
  pyvmm boot --cpu template:both.json ...
"""


def parser() -> argparse.ArgumentParser:
    """The parser, for help, completion and the command line."""
    import argparse

    made = argparse.ArgumentParser(
        prog=PROG, description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("files", metavar="FILE", nargs="*", help="templates").complete = "file"  # type: ignore[attr-defined]
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    values = parser().parse_args(argv)
    from vmm.options.cpu import CpuConfig

    if values.files:
        first, *others = [CpuConfig.read(path) for path in values.files]
        for other in others:
            first = first.in_common(other)
    else:
        from vmm.kvm.probe import host_cpu

        first = host_cpu()
    sys.stdout.write(first.text())
    return 0
