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
    Difference(
        r"python test\.test_shutil\.TestMisc\.test_disk_usage", "the scratch layer is empty: nothing of it is used"
    ),
    Difference(
        r"python test\.test_signal\.PidfdSignalTest\.test_pidfd_send_signal", "a directory of `/proc` is no pidfd here"
    ),
    Difference(r"python test\.test_posix\.NamespacesTests\..*", "there are no namespaces"),
    Difference(
        r"python test\.test_fcntl\.TestFcntl\.test_fcntl_64_bit", "there is no `F_NOTIFY`; programs use inotify"
    ),
    Difference(r"python test\.test_socket\..*VSOCK.*", "there are no vsock sockets"),
)


def reason_of(suite: str, test: str) -> str | None:
    """The reason why a test does not pass; None: none is known."""
    for known in DIFFERENCES:
        if re.fullmatch(known.tests, f"{suite} {test}"):
            return known.reason
    return None
