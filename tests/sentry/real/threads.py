"""Threads: queues, locks, events, barriers, pools, and a switch while they compute."""

from __future__ import annotations

import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def count_by_queue() -> int:
    work: queue.Queue[int | None] = queue.Queue()
    lock = threading.Lock()
    total = 0

    def add() -> None:
        nonlocal total
        while (number := work.get()) is not None:
            with lock:
                total += number

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in [*range(1000), *[None] * 8]:
        work.put(number)
    for thread in threads:
        thread.join()
    return total


def meet() -> int:
    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(lambda _: barrier.wait(60), range(4)))


def main() -> None:
    print("queue", count_by_queue())
    print("barrier", meet())
    with ThreadPoolExecutor(1) as pool:
        name = pool.submit(Path("/proc/thread-self/comm").read_text).result()
        print(len(os.listdir("/proc/self/task")), name == Path("/proc/self/comm").read_text())
    event = threading.Event()
    timer = threading.Timer(0.01, event.set)
    timer.start()
    print("timer", event.wait(60))
    timer.join()
    print("timeout", threading.Event().wait(0.01))
    with ThreadPoolExecutor(3) as pool:
        print("compute", list(pool.map(lambda n: sum(range(n)), [100_000, 200_000, 300_000])))
    local = threading.local()
    local.value = 1
    with ThreadPoolExecutor(1) as pool:
        print("local", pool.submit(hasattr, local, "value").result())


main()
