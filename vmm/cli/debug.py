"""``pyvmm debug``: drgn on the kernel of a running guest."""

from __future__ import annotations

from vmm.cli.options import Option, parse
from vmm.cli.options import parser as make_parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

PROG = "pyvmm debug"
DESCRIPTION = "Inspect the kernel of a running guest with drgn: tasks, mounts, log, by the kernel's own types."
EPILOG = """\
The machine was started with --gdb WHERE; it continues to run.  FILE is the kernel's debug information: vmlinux.debug
beside the vmlinux of a guest kernel that was built with guest-kernel/debug.config.

example:
  pyvmm boot --kernel vmlinux --rootfs rootfs.img --gdb unix:/tmp/vm.gdb
  pyvmm debug --vm unix:/tmp/vm.gdb --vmlinux vmlinux.debug --script examples/guest_processes.py
"""
OPTIONS = (
    Option("--vm", "WHERE", "the machine: its value of --gdb", required=True),
    Option("--vmlinux", "FILE", "its kernel's debug information", required=True, complete="file"),
    Option("--script", "FILE", "run this with `prog`, instead of a prompt", complete="file"),
)


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    return make_parser(PROG, DESCRIPTION, OPTIONS, EPILOG)


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    values = parse(PROG, DESCRIPTION, OPTIONS, argv, lambda: EPILOG)
    from vmm.debug.client import PhysicalMemory
    from vmm.debug.kernel import open_program

    with PhysicalMemory(values["vm"]) as memory:
        program = open_program(memory.read, memory.regions, values["vmlinux"])
        if values["script"] is None:
            import drgn.cli

            drgn.cli.run_interactive(program)
        else:
            import runpy

            runpy.run_path(values["script"], init_globals={"prog": program}, run_name="__main__")
    return 0
