"""`python -m tests.lab run|shell`: a command, or a shell, in the nested KVM host."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tools.where import why_unusable

from .host import SHARE, Lab
from .image import LabError
from .terminal import Interrupted, Signals, run_here


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; exits with 2 and a usage message when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (("run", "run CMD in the lab and exit with its status"), ("shell", "a shell in the lab")):
        sub = verbs.add_parser(verb, help=text, description=text)
        sub.add_argument("--icount", action="store_true", help="one instruction is one nanosecond of the lab's clock")
        sub.add_argument("--hostile", action="store_true", help="another CPU model, and CPUs that are always busy")
        sub.add_argument("--cpus", type=int, default=2, metavar="N", help="CPUs (default 2; --icount has 1)")
        sub.add_argument("--memory", default="4G", metavar="SIZE", help="memory (default 4G)")
        sub.add_argument("--share", type=Path, default=SHARE, metavar="DIR", help=f"writable in the lab ({SHARE})")
        sub.add_argument("--timeout", type=float, metavar="S", help="end the lab after S seconds with status 124")
        sub.add_argument("--quiet", action="store_true", help="do not say that and why this runs in the lab")
        if verb == "run":
            sub.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD...")
    options = parser.parse_args(argv)
    if options.verb == "run":
        if options.command[:1] == ["--"]:
            del options.command[0]
        if not options.command:
            parser.error("run: no command given")
    else:
        options.command = [os.environ.get("SHELL", "/bin/sh"), "-i"]
        os.environ["PS1"] = r"lab:\w\$ " if options.command[0].endswith("bash") else "lab$ "
    return options


def main(argv: list[str]) -> int:
    """Run the command line `argv`; returns the command's exit status, 124 after a timeout, 125 for a broken lab."""
    options = parse(argv)
    if not options.quiet:
        reason = why_unusable()
        because = f"no usable KVM here ({reason}): " if reason else ""
        print(f"{because}running in the lab (QEMU TCG, nested AMD-V)", file=sys.stderr, flush=True)
    lab = Lab(
        icount=options.icount,
        hostile=options.hostile,
        cpus=options.cpus,
        memory=options.memory,
        share=options.share.resolve(),
    )
    try:
        with Signals() as signals, lab:
            return run_here(lab, signals, options.command, options.timeout)
    except Interrupted as signal:
        return signal.status
    except BrokenPipeError:  # nobody reads our output any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
