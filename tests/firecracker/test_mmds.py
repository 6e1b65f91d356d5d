"""The metadata service, as Linux's own TCP sees it through a tap device, and against any frames."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from pyvmm_firecracker.fault import Fault
from pyvmm_firecracker.mmds.endpoint import CONNECTIONS, MAC, Endpoint
from pyvmm_firecracker.mmds.packets import ACK, FIN, PSH, RST, SYN, Arp, Segment, arp_reply, parse, tcp_frame
from pyvmm_firecracker.mmds.service import Service
from pyvmm_firecracker.mmds.store import Mmds, merge
from tests.firecracker.program import PATIENCE
from tests.net_driver import NetGuest, Wire
from tests.netns import ip, own_network
from vmm.virtio.net import device as net_spec
from vmm.virtio.net.device import Net
from vmm.virtio.net.responder import Responder
from vmm.virtio.net.tap import Tap

ADDRESS = "169.254.169.254"
DATA = {"latest": {"meta-data": {"ami-id": "ami-1", "net": {"a": "b"}}, "count": 3, "list": ["x", {"y": "z"}]}}
OFFLOADS = net_spec.NET_F_GUEST_CSUM | net_spec.NET_F_GUEST_TSO4


class Cable:
    """Carries frames between a tap device and the service, as a network card does."""

    def __init__(self, tap: Tap, service: Service, loses: Callable[[int], bool]) -> None:
        self._card = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._card.connect(service.path)
        self._tap, self._loses, self._count = tap.fds[0], loses, 0
        self._end, self._ended = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        waiter = select.poll()
        for fd in (self._tap, self._card.fileno(), self._end):
            waiter.register(fd, select.POLLIN)
        while True:
            for fd, _ in waiter.poll():
                if fd == self._end:
                    return
                data = os.read(self._tap, 1 << 17) if fd == self._tap else self._card.recv(1 << 17)
                self._count += 1
                if not self._loses(self._count):
                    self._card.send(data) if fd == self._tap else os.write(self._tap, data)

    def close(self) -> None:
        os.write(self._ended, b"x")
        self._thread.join()
        self._card.close()
        os.close(self._end)
        os.close(self._ended)


@contextlib.contextmanager
def link(
    mmds: Mmds, loses: Callable[[int], bool] = lambda _: False, mtu: int = 1500, offloads: int = OFFLOADS
) -> Iterator[None]:
    """A tap device in a network of this thread's own, behind which is the service."""
    with own_network():
        ip("tuntap add t0 mode tap; link set t0 up")
        ip(f"link set t0 mtu {mtu}; addr add 169.254.0.2/16 dev t0")
        # Linux gives up after three seconds, within which a busy host may not answer
        ip(f"ntable change name arp_cache dev t0 mcast_probes {PATIENCE:.0f}")
        tap = Tap("t0")
        with Service(mmds, ADDRESS) as service, contextlib.closing(tap):
            tap.set_offloads(offloads)
            with contextlib.closing(Cable(tap, service, loses)):
                service.hide()
                assert not os.path.exists(service.path)
                yield


def new_mmds(data: Any = DATA, version: int = 1) -> Mmds:
    mmds = Mmds("test")
    mmds.put(data)
    mmds.version = version
    return mmds


def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(ADDRESS, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


JSON = {"Accept": "application/json"}


def test_linux_reads_the_data() -> None:
    with link(new_mmds()):
        assert ask("/") == (200, "latest/")
        assert ask("/latest/") == (200, "count\nlist\nmeta-data/")
        assert ask("//latest//meta-data/ami-id") == (200, "ami-1")
        assert ask("/latest/meta-data", **JSON) == (200, '{"ami-id":"ami-1","net":{"a":"b"}}')
        assert ask("/latest/list/1/y", **JSON) == (200, '"z"')
        assert ask("/latest/count") == (501, "Cannot retrieve value. The value has an unsupported type.")
        assert ask("/latest/count", **JSON) == (200, "3")
        assert ask("/other") == (404, "Resource not found: /other.")
        assert ask("/latest/list/9")[0] == 404
        assert ask("/latest", "DELETE") == (405, "Not allowed HTTP method.")


class Card:
    """Carries frames between a tap device and a network card, whose driver this is."""

    def __init__(self, tap: Tap, path: str) -> None:
        self._side = Responder(path, ADDRESS)
        self._guest = NetGuest(card=Net(Wire(features=0), side=self._side))
        self._tap = tap.fds[0]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        queue = self._guest.rx()
        while not self._ended.is_set():
            if select.select([self._tap], [], [], 0.002)[0]:
                data = os.read(self._tap, 1 << 17)
                self._guest.send(data[12:], data[:12])
            while queue.has_used():
                os.write(self._tap, bytes(12) + self._guest.receive().frame)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._guest.close()
        self._side.close()

    @property
    def others(self) -> socket.socket:
        """Where frames for others go."""
        return self._guest.far


def test_linux_reads_through_a_network_card() -> None:
    """The worker of the card sends what is for the service to it, and everything else to the network."""
    mmds = new_mmds(LARGE)
    with own_network():
        ip("tuntap add t0 mode tap; link set t0 up; addr add 169.254.0.2/16 dev t0")
        with Service(mmds, ADDRESS) as service, contextlib.closing(Tap("t0")) as tap:
            with contextlib.closing(Card(tap, service.path)) as card:
                for _ in range(3):
                    status, text = ask("/", **JSON)
                    assert status == 200
                    assert json.loads(text) == LARGE
                card.others.setblocking(False)
                elsewhere = list[bytes]()
                with contextlib.suppress(BlockingIOError):
                    while True:
                        elsewhere.append(card.others.recv(1 << 17))
    found = [parse(each[12:], is_checked=True) for each in elsewhere]
    assert not any(isinstance(each, Segment | Arp) for each in found), "Linux's own chatter alone"


def test_version_2_needs_tokens() -> None:
    now = [100.0]
    mmds = Mmds("test", clock=lambda: now[0])
    mmds.put(DATA)
    mmds.version = 2
    with link(mmds):
        assert ask("/latest/meta-data/ami-id")[0] == 401
        assert ask("/latest/meta-data/ami-id", X_metadata_token="x" * 96)[0] == 401
        assert ask("/latest/api/token", "PUT")[0] == 400
        for ttl in ("0", "21601", "-1", "x"):
            assert ask("/latest/api/token", "PUT", X_metadata_token_ttl_seconds=ttl)[0] == 400
        forwarded = {"X_metadata_token_ttl_seconds": "60", "X_Forwarded_For": "1.2.3.4"}
        assert ask("/latest/api/token", "PUT", **forwarded)[0] == 400
        assert ask("/latest/api/other", "PUT", X_metadata_token_ttl_seconds="60")[0] == 404
        status, token = ask("/latest/api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60")
        assert status == 200
        assert ask("/latest/meta-data/ami-id", X_metadata_token=token) == (200, "ami-1")
        assert ask("/latest/meta-data/ami-id", X_aws_ec2_metadata_token=token) == (200, "ami-1")
        now[0] += 61
        assert ask("/latest/meta-data/ami-id", X_metadata_token=token)[0] == 401
    other = new_mmds(version=2)
    assert not other.is_valid(token), "of another instance"


LARGE = {str(number): "x" * 1000 for number in range(45)}


@pytest.mark.parametrize(
    ("mtu", "offloads", "every"), [(1500, OFFLOADS, 0), (1500, 0, 0), (200, 0, 0), (1500, 0, 7), (1500, OFFLOADS, 4)]
)
def test_large_answers_arrive_whole(mtu: int, offloads: int, every: int) -> None:
    """Also over small frames, and where each *every*-th frame is lost."""
    with link(new_mmds(LARGE), lambda count: bool(every) and count % every == 0, mtu, offloads):
        status, text = ask("/", **JSON)
        assert status == 200
        assert json.loads(text) == LARGE


def test_a_connection_serves_several_requests_and_others_beside_it() -> None:
    with link(new_mmds()):
        many = [http.client.HTTPConnection(ADDRESS, timeout=PATIENCE) for _ in range(20)]
        for _ in range(3):
            for each in many:
                each.request("GET", "/latest/meta-data/ami-id")
            assert [each.getresponse().read() for each in many] == [b"ami-1"] * 20
        for each in many:
            each.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl_reads_it(tmp_path: Path) -> None:
    with link(new_mmds()):
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", f"http://{ADDRESS}/latest/meta-data/"]
        done = subprocess.run([*command, "--http1.0", command[-1]], capture_output=True, text=True, check=True)
        assert done.stdout == "ami-id\nnet/" * 2


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /latest HTTP/1.0\r\n\r\n", b"200"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 9000, b"4"),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"y" * 100000, b"4"),
        (b"GET  HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b"400"),
        (b"GET http://169.254.169.254 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    ],
)
def test_broken_requests_are_refused(data: bytes, status: bytes) -> None:
    with link(new_mmds()):
        with socket.create_connection((ADDRESS, 80), PATIENCE) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 " + status), answer
        assert ask("/") == (200, "latest/")


def test_other_ports_refuse_and_idle_clients_make_room() -> None:
    with link(new_mmds()):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((ADDRESS, 81), PATIENCE)
        idle = [socket.create_connection((ADDRESS, 80), PATIENCE) for _ in range(CONNECTIONS + 10)]
        assert ask("/") == (200, "latest/")
        with pytest.raises(ConnectionResetError):
            idle[0].recv(1)
        for each in idle:
            each.close()


def test_pipelined_requests_do_not_collect_answers() -> None:
    """A client that sends many requests and reads nothing takes little memory of the host."""
    request = b"GET / HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n"
    with link(new_mmds(LARGE)):
        with socket.create_connection((ADDRESS, 80), PATIENCE) as sock:
            sock.sendall(request * 100)
            answers = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        assert 2 <= answers.count(b"HTTP/1.1 200 ") <= 3
        assert b"Connection: close" in answers.rpartition(b"HTTP/1.1 200 ")[2]
        assert ask("/", **JSON)[0] == 200


def test_a_guest_that_does_not_read_is_given_up() -> None:
    """The answers to it are bounded, and its connection ends."""
    now, sent = [0.0], list[bytes]()
    endpoint = Endpoint(new_mmds(LARGE), socket.inet_aton(ADDRESS), sent.append, lambda: now[0])
    client = Peer(endpoint, sent)
    client.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n", window=100)
    assert sum(len(each.data) for each in client.take()) == 100
    rounds = 0
    while (left := endpoint.tick()) is not None:
        now[0] += left
        rounds += 1
    assert 3 < rounds < 30
    assert client.take()[-1].flags & RST


class Peer:
    """A client made of segments."""

    def __init__(self, endpoint: Endpoint, sent: list[bytes]) -> None:
        self.endpoint, self.sent = endpoint, sent
        self.seq = self.ack = 0

    def segment(self, flags: int, data: bytes = b"", window: int = 65535) -> None:
        ours, theirs = socket.inet_aton("169.254.0.2"), socket.inet_aton(ADDRESS)
        made = Segment(MAC, ours, theirs, 1234, 80, self.seq, self.ack, flags, window, 1460, data)
        self.endpoint.receive(bytes(12) + tcp_frame(b"\2\0\0\0\0\1", made))

    def take(self) -> list[Segment]:
        found = [parse(each[12:], is_checked=False) for each in self.sent]
        self.sent.clear()
        return [each for each in found if isinstance(each, Segment)]

    def connect(self) -> None:
        self.segment(SYN)
        answer = self.take()[0]
        assert answer.flags == SYN | ACK
        self.seq, self.ack = self.seq + 1, (answer.seq + 1) & 0xFFFF_FFFF
        self.segment(ACK)

    def send(self, data: bytes, window: int = 65535) -> None:
        self.segment(ACK | PSH, data, window)
        self.seq += len(data)


def test_repeated_and_early_segments() -> None:
    """What comes twice is answered once, and what comes early is asked for again."""
    sent: list[bytes] = []
    client = Peer(Endpoint(new_mmds(), socket.inet_aton(ADDRESS), sent.append), sent)
    client.connect()
    request = b"GET /latest/meta-data/ami-id HTTP/1.1\r\nHost: x\r\n\r\n"
    client.seq += 10
    client.segment(ACK, request[10:])
    assert [each.data for each in client.take()] == [b""]
    client.seq -= 10
    client.segment(ACK, request[:20])
    client.take()
    client.send(request)
    answers = client.take()
    assert answers[0].data.endswith(b"\r\n\r\nami-1")
    client.seq -= len(request)
    client.segment(ACK, request)
    assert b"".join(each.data for each in client.take()) == b""


STEPS = some.lists(
    some.tuples(
        some.sampled_from([ACK, ACK | PSH, ACK | FIN, SYN, RST, 0, SYN | ACK, RST | ACK]),
        some.sampled_from([0, 0, 0, 1, -1, 5, 60000, 1 << 31]),
        some.sampled_from([0, 0, 0, 1, -1, 5, 60000, 1 << 31]),
        some.sampled_from([b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /", b"\r\n\r\n", b"x" * 1400]),
        some.sampled_from([65535, 1000, 1, 0]),
        some.sampled_from([0.0, 0.0, 0.3, 70.0]),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=200)
@given(STEPS)
def test_any_segments_leave_a_service_that_ends(steps: list[tuple[int, int, int, bytes, int, float]]) -> None:
    now, sent = [0.0], list[bytes]()
    endpoint = Endpoint(new_mmds(LARGE), socket.inet_aton(ADDRESS), sent.append, lambda: now[0])
    client = Peer(endpoint, sent)
    client.connect()
    for flags, seq, ack, data, window, wait in steps:
        client.seq, client.ack = (client.seq + seq) & 0xFFFF_FFFF, (client.ack + ack) & 0xFFFF_FFFF
        client.segment(flags, data, window)
        got = client.take()
        assert sum(len(each.data) for each in got) <= 65535
        if not seq:
            client.seq = (client.seq + len(data)) & 0xFFFF_FFFF
        if got and not got[-1].flags & RST:
            client.ack = (got[-1].seq + len(got[-1].data)) & 0xFFFF_FFFF
        now[0] += wait
        endpoint.tick()
    for _ in range(100):
        left = endpoint.tick()
        if left is None:
            return
        now[0] += left
    raise AssertionError("a connection stays")


@settings(deadline=None, max_examples=300)
@given(some.binary(max_size=100), some.integers(0, 60), some.binary(max_size=4))
def test_any_frames_are_harmless(frame: bytes, at: int, change: bytes) -> None:
    sent: list[bytes] = []
    endpoint = Endpoint(new_mmds(), socket.inet_aton(ADDRESS), sent.append)
    endpoint.receive(frame)
    client = Peer(endpoint, sent)
    segment = Segment(MAC, bytes(4), socket.inet_aton(ADDRESS), 1, 80, 0, 0, SYN, 9, 1460, frame)
    whole = bytes([1]) + bytes(11) + tcp_frame(MAC, segment)
    endpoint.receive(whole[: 12 + at] + change + whole[12 + at + len(change) :])
    assert len(client.take()) <= 1


def test_the_address_is_answered_by_arp() -> None:
    sent: list[bytes] = []
    endpoint = Endpoint(new_mmds(), socket.inet_aton(ADDRESS), sent.append)
    request = Arp(b"\2\0\0\0\0\1", bytes((169, 254, 0, 2)), socket.inet_aton(ADDRESS))
    raw = b"\xff" * 6 + request.mac + arp_reply(request, request.mac)[12:]
    raw = raw[:20] + b"\0\1" + request.mac + request.sender + bytes(6) + request.target
    endpoint.receive(bytes(12) + raw)
    assert sent == [bytes(12) + arp_reply(request, MAC)]


def test_patches_follow_rfc_7396() -> None:
    assert merge({"a": "b", "c": {"d": "e", "f": "g"}}, {"a": "z", "c": {"f": None}}) == {"a": "z", "c": {"d": "e"}}
    assert merge(["a"], {"a": {"bb": {"ccc": None}}}) == {"a": {"bb": {}}}
    mmds = Mmds("test", limit=40)
    with pytest.raises(Fault, match="not initialized"):
        mmds.patch({})
    mmds.put({"a": "x" * 20})
    with pytest.raises(Fault, match="doesn't fit") as caught:
        mmds.patch({"b": "y" * 20})
    assert caught.value.status == 413
    assert mmds.get() == {"a": "x" * 20}
