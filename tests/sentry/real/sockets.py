"""Unix sockets, descriptors sent through them, select and its kin, and asyncio on top."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import signal
import socket
import threading


def pairs() -> None:
    a, b = socket.socketpair()

    def send() -> None:
        with a:
            a.sendall(b"x" * 1_000_000)

    writer = threading.Thread(target=send)
    writer.start()
    size = 0
    while data := b.recv(65536):
        size += len(data)
    writer.join()
    print("stream", size)
    c, d = socket.socketpair()
    reader, writer_fd = os.pipe()
    socket.send_fds(c, [b"descriptor"], [reader])
    text, fds, _, _ = socket.recv_fds(d, 100, 4)
    os.write(writer_fd, b"through")
    print(text, os.read(fds[0], 100))


def server() -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("listener")
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data.upper())

    thread = threading.Thread(target=serve)
    thread.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("listener")
        client.sendall(b"shout")
        print(client.recv(100))
    thread.join()
    receiver, sender = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    receiver.bind("receiver")
    sender.sendto(b"datagram", "receiver")
    print(receiver.recvfrom(100))


def waiting() -> None:
    reader, writer = os.pipe()
    print(select.select([reader], [writer], [], 0) == ([], [writer], []))
    os.write(writer, b"x")
    print(select.select([reader], [], [], 60) == ([reader], [], []))
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    epoll = select.epoll()
    epoll.register(reader, select.EPOLLIN | select.EPOLLET)
    print(poll.poll(0)[0][1], epoll.poll(0)[0][1], epoll.poll(0))
    print(selectors.DefaultSelector.__name__)


async def number(seconds: float) -> float:
    await asyncio.sleep(seconds)  # the order in which they end is compared
    return seconds


async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.readline()).upper())
    await writer.drain()
    writer.close()


async def events() -> None:
    print(await asyncio.gather(*(number(each / 100) for each in range(4))))
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    print(await child.communicate(b"to cat"), child.returncode)
    print(await asyncio.to_thread(sum, [1, 2]))
    async with await asyncio.start_unix_server(upper, "asyncio"):
        reader, writer = await asyncio.open_unix_connection("asyncio")
        writer.write(b"line\n")
        print(await reader.read())
        writer.close()
    try:
        await asyncio.wait_for(asyncio.sleep(60), 0.01)  # longer than its limit
    except TimeoutError:
        print("timeout")
    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[str] = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, signalled.set_result, "signal")
    os.kill(os.getpid(), signal.SIGUSR1)
    print(await signalled)


pairs()
server()
waiting()
asyncio.run(events())
