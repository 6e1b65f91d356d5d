"""The commands of ``pyvmm``: each is the module of its name here."""

from __future__ import annotations

COMMANDS = {
    "boot": "boot a Linux kernel in a virtual machine",
    "snapshot": "save a running machine",
    "restore": "start a machine where a snapshot was taken",
    "snapshots": "look at saved machines, verify or merge them",
    "run": "run a container in a virtual machine of its own",
    "doctor": "tell whether this machine can run virtual machines, and what to do if not",
    "debug": "look into the kernel of a running guest with drgn",
    "completion": "print a completion script for bash, zsh or fish",
}
