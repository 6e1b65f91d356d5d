"""The commands of ``pyvmm-runsc`` that run one program, and those about platforms and system calls."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from typing import NoReturn

from pyvmm_sentry import generate, platforms, program
from pyvmm_sentry.syscalls import SYSCALLS, Syscall
from vmm import VmmError

PROG = "pyvmm-runsc"
CPUS = 64
ALONE = "none"
"""The root of a program that needs no other file."""
CANNOT_START, NOT_FOUND = 125, 127
"""Exit statuses, as `env` has them; 126 is the platform's: the file is not a program that it can run."""
_EPILOG = """\
exit status:
  that of the program; if a signal ended it, this command ends by the same signal
  125  the sandbox cannot be started
  126  the file is not a program that it can run
  127  there is no such file

help syscalls [NAME...] lists the system calls that the Sentry answers.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(
        PROG,
        description="Run Linux programs on a guest kernel of this project's own, the Sentry.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    do = commands.add_parser("do", help="run a program in a sandbox of its own")
    add = do.add_argument
    root = "a directory of the host as the root, which nobody else may change meanwhile; none: only CMD (default: /)"
    add("--root", metavar="DIR", help=root)
    layer = do.add_mutually_exclusive_group()
    layer.add_argument("--read-only", action="store_true", help="refuse changes (default: forget them at the end)")
    layer.add_argument(
        "--writable", action="store_true", help="with --root DIR: the program changes the directory itself"
    )
    add("--platform", choices=("auto", *platforms.NAMES), default="auto", help="what runs the core (default: auto)")
    networks = "none: loopback alone (default); user: the host's networks, through passt"
    add("--network", choices=("none", "user"), default="none", help=networks)
    add("--memory", type=int, default=256, metavar="MIB", help="memory of the sandbox (default: 256)")
    add("--pids", type=int, default=1024, metavar="NUMBER", help="processes and threads at once (default: 1024)")
    cpus = "CPUs of the sandbox (default: as many as this command may use; kvm: 1; ptrace has one)"
    add("--cpus", type=int, metavar="NUMBER", help=cpus)
    add("--strace", action="store_true", help="print every system call to standard error")
    add("program", metavar="CMD", help="a program for x86-64, or a script")
    add("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="its arguments")
    commands.add_parser("platforms", help="list the platforms, and which of them work here")
    commands.add_parser("kernel", help="build the Sentry as a guest kernel, and print its path")
    text = commands.add_parser("help", help="print this help, or about system calls: help syscalls [NAME...]")
    text.add_argument("topic", nargs="*")
    return whole


def fail(text: str, hint: str = "", status: int = CANNOT_START) -> NoReturn:
    """Print an error and exit."""
    print(f"{PROG}: {text}", *([f"  hint: {hint}"] if hint else []), sep="\n", file=sys.stderr)
    sys.exit(status)


def choose(options: argparse.Namespace) -> str:
    """The platform to use; exits if there is none."""
    names: tuple[str, ...] = (options.platform,)
    if options.platform == "auto":
        # Only a device that is there can be worth the milliseconds of a try.
        names = platforms.NAMES if os.access("/dev/kvm", os.R_OK | os.W_OK) else platforms.NAMES[1:]
    attempts = {"kvm": platforms.kvm, "trap": platforms.trap, "ptrace": platforms.ptrace}
    for name in names:
        found = attempts[name]()
        if found.present:
            return name
    fail(f"the platform {name} does not work here: {found.detail}", found.hint)


def directory_in(root: str) -> str | None:
    """Where the program starts: the current directory, if that is in the root; None: the root itself."""
    if not os.path.samefile(root, "/"):
        return None
    try:
        return os.getcwd()
    except FileNotFoundError:
        fail("the current directory has been removed")


def find(name: str, root: str) -> str:
    """The path of a program inside of *root*, from the directory in which it starts."""
    if not os.path.isdir(root):
        fail(f"--root {root}: not a directory")
    places = [""] if "/" in name else os.environ.get("PATH", "/usr/bin:/bin").split(":")
    for place in places:
        path = os.path.join(place, name)
        if os.path.lexists(f"{root}/{os.path.join(directory_in(root) or '/', path)}"):
            return path
    fail(f"{name}: not found in {root}", status=NOT_FOUND)


def check(options: argparse.Namespace) -> str:
    """The path of the program; exits if the options ask for what is not there."""
    if not 16 <= options.memory <= 65536:
        fail(f"--memory {options.memory}: not from 16 to 65536 MiB")
    if not 1 <= options.pids <= 32768:
        fail(f"--pids {options.pids}: not from 1 to 32768")
    if options.cpus is not None and not 1 <= options.cpus <= CPUS:
        fail(f"--cpus {options.cpus}: not from 1 to {CPUS}")
    if options.writable and options.root in (None, ALONE):
        fail("--writable: no directory is named", "name the one that may change: --root DIR")
    if options.root is None:
        options.root = "/"
    if options.root != ALONE:
        return find(options.program, options.root)
    if options.read_only:
        fail("--read-only: there is no directory", "name one: --root DIR")
    options.root = None
    path: str | None = options.program if "/" in options.program else shutil.which(options.program)
    if not path or not os.path.exists(path):
        fail(f"{options.program}: not found", status=NOT_FOUND)
    return path


def layer_of(options: argparse.Namespace) -> dict[str, bool]:
    """What happens to changes of the root: who refuses them, and where they go."""
    return {"read_only": not options.writable, "scratch": not (options.writable or options.read_only)}


def run_on_kvm(path: str, options: argparse.Namespace) -> int:
    """Run a program in a machine; returns its exit status."""
    from pyvmm_sentry import boot
    from pyvmm_sentry.terminal import Terminal

    kernel = program.kernel()
    terminal = Terminal.find()
    if terminal:
        terminal.guard()
    layer = layer_of(options)
    start = boot.Start(
        path,
        [path, *options.arguments],
        os.environ,
        options.memory,
        options.pids,
        options.root,
        strace=options.strace,
        network=options.network == "user",
        cpus=min(options.cpus or 1, boot.CPUS),
        terminal=terminal,
        read_only=layer["read_only"],
        scratch=layer["scratch"],
        directory=None if options.root is None else directory_in(options.root),
    )
    return end_as(boot.run(kernel, start))


def end_as(status: int) -> int:
    """End this process by the signal -*status*, if it is below 0; returns it."""
    if status < 0:
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def run_on_host(name: str, path: str, options: argparse.Namespace) -> int:
    """Replace this process by the program of a platform; with a network, run it and wait for its end."""
    binary = str(program.trap() if name == "trap" else program.ptrace())
    command = [binary, *(["--strace"] if options.strace else []), "--memory", str(options.memory)]
    command += ["--pids", str(options.pids), *(["--cpus", str(options.cpus)] if options.cpus else [])]
    words = ["--", path, *options.arguments]
    if options.root is None and options.network == "none":
        os.execv(binary, [*command, *words])
    from pyvmm_sentry.share import Devices, exec_with_devices

    layer = layer_of(options)
    network = options.network == "user"
    devices = Devices(options.memory << 20, options.root, read_only=layer["read_only"], network=network)
    directory = None if options.root is None else directory_in(options.root)
    command += ["--directory", directory] if directory is not None else []
    scratch = ["--scratch"] if options.root is not None and layer["scratch"] else []
    return end_as(exec_with_devices(devices, [*command, *scratch], words))


def do(options: argparse.Namespace) -> int:
    """Run a program; ends as it does."""
    path = check(options)
    name = choose(options)
    sys.stdout.flush()
    return run_on_kvm(path, options) if name == "kvm" else run_on_host(name, path, options)


def describe(call: Syscall, there: bool) -> str:
    """A line about a system call."""
    arguments = ", ".join(argument.name for argument in call.arguments)
    state = ("answered" + (f": {call.note}" if call.note else "")) if there else "ENOSYS"
    return f"{call.number:>3}  tier {call.tier}  {call.name}({arguments})  {state}"


def print_help(topic: list[str]) -> int:
    """Print the help, or a line about each system call."""
    if topic[:1] != ["syscalls"]:
        parser().print_help()
        return 0 if not topic else 2
    names = {call.name for call in SYSCALLS}
    unknown = sorted(set(topic[1:]) - names)
    if unknown:
        fail(f"no such system call: {', '.join(unknown)}", status=2)
    there = {call.name for call in generate.answered()}
    for call in SYSCALLS:
        if not topic[1:] or call.name in topic[1:]:
            print(describe(call, call.name in there))
    return 0


def print_platforms() -> int:
    """Print a line about each platform; 0 if one works."""
    found = platforms.all_platforms()
    for each in found:
        print(f"{'yes' if each.present else 'no':<3}  {each.name:<6}  {each.detail}")
        if each.hint:
            print(f"{'':13}do: {each.hint}")
    return 0 if any(each.present for each in found) else 1


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = parser().parse_args(argv)
    try:
        if options.command == "do":
            return do(options)
        if options.command == "help":
            return print_help(options.topic)
        if options.command == "platforms":
            return print_platforms()
        print(program.kernel())
    except (program.BuildError, VmmError) as error:
        fail(str(error), getattr(error, "hint", ""))
    return 0
