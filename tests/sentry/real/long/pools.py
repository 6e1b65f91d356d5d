"""multiprocessing with processes that start as new programs: pools, what they share, and managers."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Event, Semaphore
from typing import Any


def square(number: int) -> int:
    return number * number


def add(semaphore: Semaphore, event: Event, total: Any, queue: Any) -> None:
    event.wait()
    for _ in range(20):
        with semaphore, total.get_lock():
            total.value += 1
    queue.put(True)


def main() -> None:
    for kind in ("spawn", "forkserver"):
        context: Any = multiprocessing.get_context(kind)
        semaphore, event, total, queue = context.Semaphore(2), context.Event(), context.Value("i", 0), context.Queue()
        children = [context.Process(target=add, args=(semaphore, event, total, queue)) for _ in range(3)]
        for child in children:
            child.start()
        event.set()
        print(kind, [queue.get() for _ in children])
        for child in children:
            child.join()
        print(total.value, [child.exitcode for child in children])
        with context.Manager() as manager:
            names = manager.dict()
            names["a"] = 1
            print(dict(names))
        with context.Pool(2) as pool:
            print(pool.map(square, range(20), 3), pool.apply_async(square, (4,)).get())
        barrier = context.Barrier(2)
        child = context.Process(target=barrier.wait)
        child.start()
        print(barrier.wait() in {0, 1})
        child.join()


if __name__ == "__main__":
    main()
