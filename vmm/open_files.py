"""The limit of open files of this process."""

from __future__ import annotations


def allow_open_files(most: int = 0) -> None:
    """Raise the limit of open files to *most*, or as far as this process may; 0: as far as it may.

    For a process that holds machines, or files of guests: each machine has dozens of descriptors, and the usual limit
    is 1,024. Processes that it starts later have the same limit.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = hard if not most else most if hard == unlimited else min(most, hard)
    if soft not in (unlimited, wanted) and (wanted == unlimited or soft < wanted):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
