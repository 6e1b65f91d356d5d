"""Servers and their clients on loopback, asyncio's processes, and what processes of multiprocessing share."""

from __future__ import annotations

import asyncio
import http.server
import multiprocessing
import threading
import urllib.request
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.synchronize import Condition, Event, Semaphore
from typing import Any

FORK = multiprocessing.get_context("fork")


def square(number: int) -> int:
    return number * number


def add(semaphore: Semaphore, event: Event, total: Any, queue: Any) -> None:
    event.wait()
    for _ in range(20):
        with semaphore, total.get_lock():
            total.value += 1
    queue.put(True)


def answer(condition: Condition, state: Any) -> None:
    with condition:
        while state.value != 1:
            condition.wait()
        state.value = 2
        condition.notify_all()


def processes() -> None:
    semaphore, event, total, queue = FORK.Semaphore(2), FORK.Event(), FORK.Value("i", 0), FORK.Queue()
    children = [FORK.Process(target=add, args=(semaphore, event, total, queue)) for _ in range(3)]
    for child in children:
        child.start()
    event.set()
    print([queue.get() for _ in children])
    for child in children:
        child.join()
    print(total.value, [child.exitcode for child in children])
    condition, state = FORK.Condition(), FORK.Value("i", 0)
    child = FORK.Process(target=answer, args=(condition, state))
    child.start()
    with condition:
        state.value = 1
        condition.notify_all()
        print(condition.wait_for(lambda: state.value == 2, 60))
    child.join()
    with FORK.Manager() as manager:
        names, numbers = manager.dict(), manager.list()
        names["a"] = 1
        numbers.append(2)
        print(dict(names), list(numbers))
    barrier = FORK.Barrier(2)
    child = FORK.Process(target=barrier.wait)
    child.start()
    print(barrier.wait() in {0, 1})
    child.join()
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=theirs.send, args=(list(range(10_000)),))
    child.start()
    print(len(ours.recv()))
    child.join()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()
    writer.close()


async def ask(port: int, number: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"%d" % number * 1000)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return len(answer)


async def asynchronous() -> None:
    # Children that end at different times
    commands = [f"sleep 0.0{number}; echo {number}; exit {number}" for number in range(8)]
    shells = await asyncio.gather(*(asyncio.create_subprocess_shell(command, stdout=-1) for command in commands))
    outputs = await asyncio.gather(*(shell.communicate() for shell in shells))
    print([(output[0], shell.returncode) for output, shell in zip(outputs, shells, strict=True)])
    cat = await asyncio.create_subprocess_shell("cat >&2; kill -TERM $$", stdin=-1, stderr=-1)
    copied = await cat.communicate(b"x" * 300_000)
    print(copied[0], copied[1] == b"x" * 300_000, cat.returncode)
    sleeper = await asyncio.create_subprocess_exec("sleep", "1000")
    sleeper.kill()
    print(await sleeper.wait())
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(await asyncio.gather(*(ask(port, number) for number in range(30))))
    server.close()
    await server.wait_closed()
    with ProcessPoolExecutor(2, FORK) as pool:
        loop = asyncio.get_running_loop()
        print(await asyncio.gather(*(loop.run_in_executor(pool, square, number) for number in range(5))))


class Handler(http.server.BaseHTTPRequestHandler):
    """Returns the path."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


def web() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls = [f"http://127.0.0.1:{server.server_port}/{number}" for number in range(20)]
        with ThreadPoolExecutor(5) as pool:
            print(list(pool.map(lambda url: urllib.request.urlopen(url).read(), urls)))
        server.shutdown()


if __name__ == "__main__":
    processes()
    asyncio.run(asynchronous())
    web()
