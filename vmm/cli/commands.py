"""The commands of ``pyvmm``, each of which is the module of its name here, and the exit statuses that errors have."""

from __future__ import annotations

from vmm.errors import ConfigError, GuestError, VmmError

COMMANDS = {
    "boot": "boot a Linux kernel in a virtual machine",
    "snapshot": "save a running machine",
    "restore": "start a machine from a snapshot",
    "disk": "add, remove or resize disks of a running machine",
    "share": "add or remove shared directories of a running machine",
    "fork": "make running copies of a machine",
    "resize": "change the memory or the number of vCPUs of a running machine",
    "control": "send any other request to a running machine",
    "snapshots": "inspect, verify or merge saved machines",
    "cpu": "print a template of the guests' processor, or the common part of several templates",
    "doctor": "check whether this host can run virtual machines, and print remedies",
    "debug": "inspect the kernel of a running guest with drgn",
    "completion": "print a completion script for bash, zsh or fish",
}
INTERNAL = {"isolated": "vmm.processes.machine_process"}
"""Commands that our own programs run, with the modules of each; no user sees them."""
EXIT_HOST, EXIT_CONFIG, EXIT_GUEST_ERROR = 1, 2, 19


def exit_status(error: VmmError) -> int:
    """The exit status that belongs to *error*."""
    if isinstance(error, ConfigError):
        return EXIT_CONFIG
    return EXIT_GUEST_ERROR if isinstance(error, GuestError) else EXIT_HOST
