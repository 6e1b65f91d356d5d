"""The frequency of the time stamp counter, which an emulated machine has from its host.

Linux measures it at its start against an emulated timer. Where the emulator waits for a CPU at that moment the result
is wrong, and the machine's clock was seen to run four times too fast: tests timed out after a quarter of their time.
"""

from __future__ import annotations

import ctypes
import mmap
import time

CODE = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""rdtsc; shl $32, %rdx; or %rdx, %rax; ret (Intel SDM volume 2, RDTSC)."""
TRIES = 20
APART_S = 0.02


def khz() -> int:
    """Of this machine's CPUs, against CLOCK_MONOTONIC."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(CODE)
        place = ctypes.c_char.from_buffer(page)
        counter = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))

        def read() -> tuple[int, int]:
            """Nanoseconds, and the counter in the middle of the shortest of some intervals."""
            found = []
            for _ in range(TRIES):
                before, count, after = time.monotonic_ns(), counter(), time.monotonic_ns()
                found.append((after - before, (before + after) // 2, count))
            return min(found)[1:]

        first_ns, first = read()
        time.sleep(APART_S)  # what it counts is the time
        last_ns, last = read()
        del place
    return round((last - first) * 1e6 / (last_ns - first_ns))
