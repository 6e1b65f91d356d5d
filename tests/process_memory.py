"""How much memory of the host a process uses; for tests and benchmarks."""

from __future__ import annotations


def pss(pid: int) -> int:
    """Bytes of a process's proportional set size: a page that n processes map counts as one nth of a page.

    Raises OSError when the process has ended.
    """
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
