"""What wears virtio-vsock out: nobody reads, thousands come, packets change under way; and paths not our own."""

from __future__ import annotations

import fcntl
import os
import random
import resource
import socket
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import TIMEOUT, Buffer
from tests.vsock_driver import VsockGuest, header, is_asleep, resident, works
from vmm import ConfigError, VsockConfig
from vmm.virtio import spec
from vmm.virtio.vsock import device as vsock_spec
from vmm.virtio.vsock.device import TX, Vsock

SEQ = vsock_spec.VSOCK_TYPE_SEQPACKET
STREAM = vsock_spec.VSOCK_TYPE_STREAM


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[VsockGuest]:
    with VsockGuest(tmp_path) as guest:
        yield guest
        assert not guest.status & spec.DEVICE_NEEDS_RESET, "a bad packet is no broken ring"


# -- who does not read --------------------------------------------------------------------------------------------


def test_a_storm_of_resets_while_the_guest_takes_none(tmp_path: Path) -> None:
    """Answers that the guest does not take are bounded: then nothing more is taken from it, until it takes them."""
    with VsockGuest(tmp_path, buffers=0) as guest:
        queue = guest.queues[TX]
        for src in range(queue.size):
            queue.offer(queue.chain([guest.data(header(vsock_spec.VSOCK_OP_RW, 1000, src))]))
        queue.kick()
        taken = 0
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            taken += len(queue.take_used())
        assert 0 < taken < queue.size
        idle = guest.vsock.stats()["wakeups"]
        time.sleep(0.1)  # nothing may happen
        assert guest.vsock.stats()["wakeups"] - idle < 5, "it waits, it does not spin"
        guest.post(64)
        sources = {packet.dst_port for packet in guest.receive(queue.size)}
        assert sources == set(range(queue.size))
        guest.wait_for("all are taken", lambda: bool(queue.take_used()) or queue.next_used == queue.next_avail)
        works(guest)


def test_a_guest_that_never_reads_holds_up_only_itself(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with VsockGuest(tmp_path / "a", buffers=1) as deaf, VsockGuest(tmp_path / "b") as other:
        program, _, _ = deaf.from_guest()
        program.settimeout(0.2)
        with pytest.raises(TimeoutError):
            program.sendall(b"r" * (4 << 20))
        works(other)


# -- many, and clients of the host ---------------------------------------------------------------------------------


def test_no_more_connections_than_allowed(tmp_path: Path) -> None:
    """A guest that makes as many as it can gets resets, and is served again when one ends."""
    device = Vsock(VsockConfig(3, str(tmp_path / "v.sock"), connections=8))
    with VsockGuest(tmp_path, device=device) as guest, guest.listen(1000) as listener:
        for src in range(8):
            guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, src)
            assert guest.expect(vsock_spec.VSOCK_OP_RESPONSE).dst_port == src
        programs = [listener.accept()[0] for _ in range(8)]
        guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 8)
        assert guest.expect(vsock_spec.VSOCK_OP_RST).dst_port == 8
        guest.send(vsock_spec.VSOCK_OP_RST, 1000, 0)
        guest.wait_for("one has ended", lambda: guest.vsock.stats()["connections"] == 7)
        guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 9)
        assert guest.expect(vsock_spec.VSOCK_OP_RESPONSE).dst_port == 9
        for program in programs:
            program.close()


def test_clients_that_say_nothing_give_way(tmp_path: Path) -> None:
    """To other clients, and to connections of the guest, when there may be no more."""
    device = Vsock(VsockConfig(3, str(tmp_path / "v.sock"), connections=4))
    with VsockGuest(tmp_path, device=device) as guest, guest.listen(1000) as listener:
        silent = [guest.client() for _ in range(4)]
        guest.wait_for("all are there", lambda: guest.vsock.stats()["connections"] == 4)
        client, _, _ = guest.from_host()
        assert silent.pop(0).recv(1) == b"", "the oldest"
        silent.append(guest.client(b"CONN"))
        guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 77)
        while guest.receive()[0].op != vsock_spec.VSOCK_OP_RESPONSE:  # the next one has not been there for a second
            guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 77)
        assert silent.pop(0).recv(1) == b""
        for each in (listener.accept()[0], client, *silent):
            each.close()


@pytest.mark.parametrize("number", [0, -1, 16385])
def test_a_number_of_connections_that_cannot_be(tmp_path: Path, number: int) -> None:
    with pytest.raises(ConfigError, match=f"connections={number} is not 1 to 16384"):
        VsockConfig(3, str(tmp_path / "v.sock"), connections=number)


def test_thousands_of_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, (hard - 500) // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with VsockGuest(tmp_path, buffers=128) as guest, guest.listen(1000) as listener:
            threads, before = threading.active_count(), resident()
            programs = []
            for src in range(count):
                guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, src)
                programs.append(listener.accept()[0])
                guest.expect(vsock_spec.VSOCK_OP_RESPONSE)
            assert guest.vsock.stats()["connections"] == count
            assert threading.active_count() <= threads
            assert len(os.listdir("/proc/self/task")) < 20
            assert resident() - before < count * 2048, "no buffer each (a socket object of Python's is half of it)"
            for src in (0, count // 2, count - 1):
                guest.send(vsock_spec.VSOCK_OP_RW, 1000, src, b"%d" % src)
                assert programs[src].recv(10) == b"%d" % src
            guest.wait_for("sleep", is_asleep)
            idle = guest.vsock.stats()["wakeups"]
            time.sleep(0.1)  # nothing may happen
            assert guest.vsock.stats()["wakeups"] == idle, "idle costs nothing"
            for program in programs:
                program.close()
            guest.receive(count)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_descriptors(tmp_path: Path) -> None:
    """Nobody is served, nothing spins; when there are some again, who waited is served."""
    with VsockGuest(tmp_path) as guest:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(TIMEOUT)
        listener = guest.listen(1000)
        used = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        plugs: list[int] = []
        try:
            try:
                while True:
                    plugs.append(os.dup(0))
            except OSError:
                pass
            client.connect(str(guest.uds))
            client.sendall(b"CONNECT 2000\n")
            guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 5)
            guest.expect(vsock_spec.VSOCK_OP_RST)
            before = guest.vsock.stats()["wakeups"]
            time.sleep(0.5)  # it tries again now and then
            assert guest.vsock.stats()["wakeups"] - before < 20
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for plug in plugs:
                os.close(plug)
        assert guest.expect(vsock_spec.VSOCK_OP_REQUEST).dst_port == 2000
        listener.close()


@pytest.mark.parametrize(
    "line",
    [
        b"CONNECT\n",
        b"CONNECT \n",
        b"CONNECT x\n",
        b"CONNECT -1\n",
        b"CONNECT 4294967295\n",
        b"CONNECT 99999999999\n",
        b"CONNECT 1 2\n",
        b"HELLO 1\n",
        b"\n",
        b"\0\n",
        b"x" * 64,
    ],
)
def test_lines_that_are_none(guest: VsockGuest, line: bytes) -> None:
    client = guest.client(line)
    try:
        assert client.recv(10) == b""
    except ConnectionResetError:
        pass
    guest.quiet()


def test_a_line_of_ten_megabytes(guest: VsockGuest) -> None:
    client = guest.client()
    before = resident()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        client.sendall(b"CONNECT " + b"1" * (10 << 20))
    assert resident() - before < 30 << 20
    assert guest.vsock.stats()["connections"] == 0


def test_clients_that_never_say_what_they_want(guest: VsockGuest) -> None:
    """They are bounded: the oldest goes. Others are served all the while."""
    silent = [guest.client() for _ in range(400)]
    guest.wait_for("they are there", lambda: guest.vsock.stats()["connections"] == 400)
    client, _, _ = guest.from_host()
    client.close()
    for one in silent:
        one.close()
    guest.wait_for("they are gone", lambda: guest.vsock.stats()["connections"] <= 1)


# -- races --------------------------------------------------------------------------------------------------------


def test_a_second_thread_changes_packets_while_the_device_reads_them(guest: VsockGuest) -> None:
    """A header is read once: what was checked is what is used (Cloud Hypervisor read it twice)."""
    program, port, src = guest.from_guest()
    good = header(vsock_spec.VSOCK_OP_CREDIT_REQUEST, port, src)
    bad = header(vsock_spec.VSOCK_OP_RW, port, src, length=0xFFFF_FF00)
    gpa = guest.alloc(4096)
    with guest.rewriting((gpa, (bad, good))):
        for _ in range(500):
            guest.send_buffers(Buffer(gpa, 44))
            guest.packets()
    program.close()
    guest.inbox.clear()
    works(guest)


def test_anything_at_all(guest: VsockGuest) -> None:
    """Random packets, ports from a few, so that they meet connections in every state."""
    dice = random.Random(1)
    with guest.listen(1), guest.listen(2, socket.SOCK_SEQPACKET):
        for _ in range(3000):
            data = bytes(dice.randrange(0, 300))
            guest.send(
                dice.randrange(0, 9),
                dice.randrange(1, 4),
                dice.randrange(1, 4),
                data,
                length=dice.choice([len(data), len(data), 0, 5, 1 << 31]),
                kind=dice.choice([1, 1, 2, 2, 3]),
                flags=dice.randrange(0, 4),
                buf_alloc=dice.choice([0, 1, 4096, 0xFFFF_FFFF]),
                fwd_cnt=dice.choice([0, 1, 0x8000_0000, 0xFFFF_FFFF]),
            )
            guest.packets()
    guest.wait_for("the rest is there", lambda: not guest.packets())
    guest.inbox.clear()
    works(guest)


@pytest.mark.parametrize("action", ["reset", "pause", "close"])
def test_the_end_under_load(tmp_path: Path, action: str) -> None:
    with VsockGuest(tmp_path) as guest:
        program, port, src = guest.from_guest(buf_alloc=0xFFFF_FFFF)
        stop = threading.Event()

        def load() -> None:
            program.settimeout(0.05)
            while not stop.is_set():
                try:
                    program.send(b"q" * 65536)
                    program.recv(1 << 16)
                except OSError:
                    pass

        loader = threading.Thread(target=load)
        loader.start()
        try:
            for _ in range(20):
                guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"p" * 1000)
                guest.packets()
            if action == "reset":
                guest.reset()
                guest.begin()
                guest.quiet()
            elif action == "pause":
                for _ in range(10):
                    guest.transport.pause()
                    guest.transport.resume()
                    guest.packets()
                guest.send(vsock_spec.VSOCK_OP_CREDIT_REQUEST, port, src)
            else:
                guest.transport.close()
        finally:
            stop.set()
            loader.join()


def test_a_broken_ring_ends_the_connections(tmp_path: Path) -> None:
    with VsockGuest(tmp_path) as guest:
        program, _, _ = guest.from_guest()
        queue = guest.queues[TX]
        queue.write_desc(0, 1 << 50, 16)
        queue.offer(0)
        queue.kick()
        guest.wait_needs_reset()
        assert program.recv(10) == b""
        guest.begin()
        works(guest)


# -- paths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["file", "directory", "link to a file", "link to a socket", "dangling link", "fifo"])
def test_what_lies_at_the_path_is_left_alone(tmp_path: Path, what: str) -> None:
    path, other = tmp_path / "v.sock", tmp_path / "other"
    if what == "file":
        path.write_text("mine")
    elif what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    else:
        if what == "link to a file":
            other.write_text("mine")
        elif what == "link to a socket":
            stale = socket.socket(socket.AF_UNIX)
            stale.bind(str(other))
            stale.close()
        path.symlink_to(other)
    before = sorted((entry.name, entry.lstat().st_ino) for entry in tmp_path.iterdir())
    with pytest.raises(ConfigError, match="not a socket"):
        Vsock(VsockConfig(3, str(path)))
    assert sorted((entry.name, entry.lstat().st_ino) for entry in tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_the_socket_of_a_program_that_runs_is_left_alone(tmp_path: Path, kind: int) -> None:
    with socket.socket(socket.AF_UNIX, kind) as theirs:
        theirs.bind(str(tmp_path / "v.sock"))
        if kind != socket.SOCK_DGRAM:
            theirs.listen()
        with pytest.raises(ConfigError, match="another program listens"):
            Vsock(VsockConfig(3, str(tmp_path / "v.sock")))
        assert (tmp_path / "v.sock").is_socket()


def test_two_machines_at_one_path(tmp_path: Path) -> None:
    with VsockGuest(tmp_path) as guest:
        with pytest.raises(ConfigError, match="another program listens"):
            Vsock(VsockConfig(4, str(guest.uds)))
        guest.from_host()


def test_what_took_the_paths_place_is_left_alone(tmp_path: Path) -> None:
    device = Vsock(VsockConfig(3, str(tmp_path / "v.sock")))
    (tmp_path / "v.sock").unlink()
    (tmp_path / "v.sock").write_text("theirs")
    device.close()
    assert (tmp_path / "v.sock").read_text() == "theirs"


@pytest.mark.parametrize("what", ["link", "file", "directory", "fifo"])
def test_a_port_that_is_no_socket(guest: VsockGuest, what: str) -> None:
    """A guest's connection goes to a socket in that very place, not where a link leads."""
    path = Path(f"{guest.uds}_1000")
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(guest.uds.parent / "elsewhere"))
    other.listen()
    other.settimeout(0.1)
    if what == "link":
        path.symlink_to(guest.uds.parent / "elsewhere")
    elif what == "file":
        path.write_text("")
    elif what == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 5)
    guest.expect(vsock_spec.VSOCK_OP_RST)
    with pytest.raises(TimeoutError):
        other.accept()
    other.close()


def test_a_closed_connection_of_which_somebody_has_a_duplicate(guest: VsockGuest) -> None:
    """A child that is being made has every descriptor for a moment: epoll must not tell of what was closed."""
    before = set(os.listdir("/proc/self/fd"))
    socks = [guest.from_host() for _ in range(20)]
    copies = [
        os.dup(int(fd)) for fd in set(os.listdir("/proc/self/fd")) - before if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    for _, local, port in socks:
        guest.send(vsock_spec.VSOCK_OP_SHUTDOWN, local, port, flags=3)
        guest.expect(vsock_spec.VSOCK_OP_RST)
    guest.wait_for("sleep", is_asleep)
    idle = guest.vsock.stats()["wakeups"]
    for sock, _, _ in socks:
        sock.shutdown(socket.SHUT_RDWR)
    guest.turn_loop()
    assert guest.vsock.stats()["wakeups"] == idle
    for copy in copies:
        os.close(copy)
    works(guest)


# -- memory of the kernel --------------------------------------------------------------------------------------------


def kernel_memory() -> int:
    """Bytes that buffers in unix sockets of this process take (unix(7), SIOCOUTQ)."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        value = bytearray(4)
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                fcntl.ioctl(int(name), termios.TIOCOUTQ, value)
        except OSError:
            continue
        total += int.from_bytes(value, "little")
    return total


@pytest.mark.parametrize("kind", [SEQ, STREAM], ids=["seqpacket", "stream"])
@pytest.mark.parametrize("after", ["open", "closed"])
def test_small_messages_that_nobody_reads_take_little_of_the_kernels_memory(
    tmp_path: Path, kind: int, after: str
) -> None:
    """A byte takes a buffer of its own; and what is not read outlives the guest's connection."""
    count, messages = 120, 600
    with (
        VsockGuest(tmp_path) as guest,
        guest.listen(1000, socket.SOCK_SEQPACKET if kind == SEQ else socket.SOCK_STREAM) as server,
    ):
        programs, sent = [], []
        queue = guest.queues[TX]
        data = guest.alloc(4096)
        for src in range(count):
            guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, src, kind=kind)
            programs.append(server.accept()[0])
            credit = guest.expect(vsock_spec.VSOCK_OP_RESPONSE).buf_alloc
            sent.append(min(messages, credit))
            guest.memory.write(data, header(vsock_spec.VSOCK_OP_RW, 1000, src, length=1, kind=kind, flags=1) + b"x")
            for _ in range(sent[src]):
                queue.offer(queue.chain([Buffer(data, 45)]))
                if queue.next_avail % 64 == 0:
                    queue.kick()
                    guest.wait_for("taken", lambda: bool(queue.take_used()) or queue.next_used == queue.next_avail)
            queue.kick()
            guest.wait_for("all taken", lambda: bool(queue.take_used()) or queue.next_used == queue.next_avail)
            if after == "closed":
                guest.send(vsock_spec.VSOCK_OP_SHUTDOWN, 1000, src, kind=kind, flags=3)
                guest.packets()
        assert 8 << 20 < kernel_memory() <= 17 << 20, "of some 50 MiB that they would take"
        # Whoever reads in the end gets it all
        for program, number in zip(programs, sent, strict=True):
            program.settimeout(TIMEOUT)
            got = 0
            while got < number:
                got += len(program.recv(4096))
            program.close()
        guest.wait_for("nothing is left", lambda: kernel_memory() == 0)
        guest.packets()
        guest.inbox.clear()
        guest.wait_for(
            "their descriptors are closed", lambda: guest.vsock.stats()["connections"] == 0 or after == "open"
        )
