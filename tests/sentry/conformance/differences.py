"""Why tests that pass natively do not pass on the Sentry."""

from __future__ import annotations

import re
from typing import NamedTuple


class Difference(NamedTuple):
    """
    :param tests: a pattern of whole names, each after the suite's and a space
    """

    tests: str
    reason: str


DIFFERENCES = (
    Difference(r"python test\.test_shutil\.TestMisc\.test_disk_usage", "the scratch layer is empty: nothing is used"),
    Difference(r"python .*\.NamespacesTests\..*", "there are no namespaces"),
    Difference(r"python .*\.CPUCountTests\..*", "the platform has one CPU"),
    Difference(r"python .*\.TestFcntl\.test_fcntl_64_bit", "there is no `F_NOTIFY`; programs use inotify"),
    Difference(r"python test\.test_socket\..*VSOCK.*", "there are no vsock sockets"),
    Difference(r"python test\.test_socket\..*\.test(HostnameRes|SockName)", "the host's name has no address inside"),
    Difference(
        r"python test\.test_uuid\..*\.test_(ifconfig|ip)_getnode", "without a network, no interface has an address"
    ),
    Difference(
        r"python test\.test_ftplib\.TestFTPClass\.test_abort",
        "there is no urgent data (`MSG_OOB`), which lwIP lacks; the call fails with `EOPNOTSUPP`",
    ),
    Difference(r"posix shm_open/23-1", "1,000 processes with 1,000 calls each need more time"),
    Difference(r"stress (lsm|statmount)", "there are no calls that list mounts or security modules"),
    Difference(r"stress remap", "there is no `remap_file_pages`, which Linux deprecates"),
    Difference(r"stress pci", "`/sys` has no PCI devices"),
    Difference(r"stress aiol", "there is no asynchronous I/O of the kernel (`io_setup`)"),
    Difference(r"stress handle", "there are no file handles (`name_to_handle_at`)"),
)


def reason_of(suite: str, test: str) -> str | None:
    """The reason why a test does not pass; None: none is known."""
    for known in DIFFERENCES:
        if re.fullmatch(known.tests, f"{suite} {test}"):
            return known.reason
    return None
