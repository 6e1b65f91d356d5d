"""`make test-kernels`: a part of the guest tests, on each kernel that is supported.

usage: python -m tools.kernels [KERNEL]... [-- PYTEST ARGUMENT...]

Kernels are built by guest-kernel/build.py where the cache has none, one after another. The exit status is 0 when all
tests passed on all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from tools import guest
from tools.distribution import DistributionError
from tools.run_tests import LAB_ENDED, UNUSED_BY_GUESTS
from tools.step import say, step, with_parent
from tools.versions import kernel_version, patches
from tools.where import ROOT, with_kvm

OLDER = "6.12.107-1"
"""A version from before Linux dispatched an interrupt of virtio-mmio in the order of the queues, and reset devices at
power-off."""

LABS = 3
"""How many are started for one kernel before it is given up."""
PATIENCE = 4
"""What a guest may take, times what it may in other tests: a distribution's kernel takes several times as long to boot
as ours, and other work may run."""
LIMIT = f"faulthandler_timeout={300 * PATIENCE}"
"""Seconds for one test."""

DISK_ROOT = (
    "tests/guest/test_boot.py::test_every_cpu_takes_load[3]",
    "tests/guest/test_boot.py::test_panic",
    "tests/guest/test_fs.py::test_a_file_is_read_and_written_on_both_sides",
    "tests/guest/test_fs.py::test_a_mode_and_an_owner_that_a_file_has_already",
    "tests/guest/test_fs.py::test_many_files_by_two_cpus",
    "tests/guest/test_pci.py::test_data_moves_without_an_exit_to_python",
    "tests/guest/test_pci.py::test_shares_and_sockets_work",
    "tests/guest/test_pci.py::test_the_second_queue_of_a_disk_works",
    "tests/guest/test_snapshot.py::test_a_clone_goes_on_where_its_template_was",
    "tests/guest/test_snapshot.py::test_a_vsock_listener_stays_and_connections_end",
    "tests/guest/test_snapshot.py::test_clones_have_the_vcpus_that_there_were_and_get_more",
    "tests/guest/test_snapshot.py::test_forks_go_on_alone",
    "tests/guest/test_snapshot.py::test_hooks_run_once_in_each_copy",
    "tests/guest/test_vsock.py",
)
"""Tests whose guests have a disk as their root, so that a distribution's kernel can run them with an initrd."""
ALL = (
    *DISK_ROOT,
    "tests/guest/test_boot.py::test_entry_and_root",
    "tests/guest/test_boot.py::test_linux_has_nothing_to_complain_about",
    "tests/guest/test_fs.py::test_a_mount_ends_while_a_file_is_read_ahead",
    "tests/guest/test_fs.py::test_boot_from_a_directory",
    "tests/guest/test_fs.py::test_files_of_the_guest_alone",
    "tests/guest/test_fs.py::test_what_a_new_file_asks_of_the_server",
    "tests/guest/test_snapshot.py::test_a_machine_in_a_jail_is_forked",
    "tests/guest/test_snapshot.py::test_a_machine_in_a_jail_is_saved_restored_and_reaches_the_host",
    "tests/guest/test_kata_oci.py::test_a_life",
    "tests/guest/test_kata_oci.py::test_a_machine_and_a_clone_get_cpus_with_a_quota",
    "tests/guest/test_kata_oci.py::test_clones_of_a_template_have_all_that_is_theirs",
    "tests/guest/test_kata_oci.py::test_what_a_container_sees",
    "tests/guest/test_kata_spec.py::test_a_program_in_a_copy_is_notified",
)
DEBIAN = (*DISK_ROOT, "tests/guest/test_debian.py::test_its_kernel_by_itself")


class Made(NamedTuple):
    """A kernel to test, and the initrd that it needs."""

    kernel: str
    initrd: str | None = None


def of_backports() -> Made:
    """The newest source of Debian's backports; without the virtio-fs patch where none of its variants fits."""
    try:
        return Made(guest.make("build.py", "--backports"))
    except SystemExit:
        return Made(guest.make("build.py", "--backports", "--without-patches=virtiofs"))


KERNELS: dict[str, tuple[str, Callable[[], Made], tuple[str, ...]]] = {
    "newest": ("the newest linux-source of the distribution", lambda: Made(guest.make("build.py")), ALL),
    "unpatched": ("the same without patches", lambda: Made(guest.make("build.py", "--without-patches")), ALL),
    "older": (f"linux-source {OLDER}", lambda: Made(guest.make("build.py", "--version", OLDER)), ALL),
    "backports": ("the newest linux-source of Debian's backports", of_backports, ALL),
    "debian": ("the distribution's linux-image", lambda: Made(*guest.distribution_kernel()), DEBIAN),
    "debian-backports": (
        "the newest linux-image of Debian's backports",
        lambda: Made(*guest.distribution_kernel(backports=True)),
        DISK_ROOT,
    ),
}


def test(name: str, arguments: list[str]) -> bool:
    """Run the tests on one kernel; whether all passed."""
    title, make, tests = KERNELS[name]
    try:
        with step(f"{name}: {title}"):
            made = make()
    except (SystemExit, DistributionError) as error:
        say(f"{name}: not tested, since it cannot be made: {error}")
        return False
    say(f"{name}: Linux {kernel_version(made.kernel)} {patches(made.kernel)}")
    pytest = [sys.executable, "-m", "pytest", "-q", *UNUSED_BY_GUESTS, "-o", LIMIT, *tests, *arguments]
    environment = {"PYVMM_TEST_PATIENCE": str(PATIENCE), **os.environ, "PYVMM_GUEST_KERNEL": made.kernel}
    if made.initrd is not None:
        environment["PYVMM_GUEST_INITRD"] = made.initrd
    for _ in range(LABS):
        command = with_parent(with_kvm(pytest, "--cpus", "1"))
        status = subprocess.run(command, env=environment, cwd=ROOT).returncode
        if status != LAB_ENDED:
            break
        say(f"{name}: the lab ended by itself")
    return status == 0


def main(arguments: list[str]) -> int:
    """Test the named kernels, all by default; returns the exit status."""
    names, more = arguments, list[str]()
    if "--" in arguments:
        at = arguments.index("--")
        names, more = arguments[:at], arguments[at + 1 :]
    if unknown := set(names) - KERNELS.keys():
        say(f"no kernel {', '.join(sorted(unknown))}; there are {', '.join(KERNELS)}")
        return 2
    start = time.monotonic()
    os.environ.pop("PYVMM_GUEST_KERNEL", None)
    passed = {name: test(name, more) for name in names or KERNELS}
    for name, good in passed.items():
        say(f"{name}: {'passed' if good else 'FAILED'}")
    say(f"{len(passed)} kernels in {time.monotonic() - start:.0f} s")
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
