"""ttrpc between real sockets: what both sides promise, and peers that keep to nothing."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from pyvmm_kata import protobuf
from pyvmm_kata.ttrpc import (
    ANSWER_DATA,
    ANSWER_ELEMENTS,
    MAX_DATA,
    Call,
    CallTimeout,
    Client,
    ConnectionLost,
    RpcError,
    Server,
)

TASK = "containerd.task.v2.Task"
PATIENCE = 60.0
Message = protobuf.Message


def make(name: str, **fields: object) -> Message:
    return protobuf.message(f"containerd.task.v2.{name}")(**fields)


class Tasks:
    """A service with one method of each temper."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.gone: threading.Event | None = None
        self.timeouts: list[float | None] = []

    def handlers(self) -> dict[str, Callable[[Message, Call], Message]]:
        return {"State": self.state, "Wait": self.wait, "Kill": self.kill, "Stats": self.stats, "Pause": self.fail}

    def state(self, request: Message, call: Call) -> Message:
        self.timeouts.append(call.timeout)
        return make("StateResponse", id=request.id, pid=7)

    def wait(self, request: Message, call: Call) -> Message:
        self.gone = call.gone
        self.waiting.release()
        assert self.released.wait(PATIENCE)
        return make("WaitResponse", exit_status=3)

    def kill(self, request: Message, call: Call) -> Message:
        raise RpcError("NOT_FOUND", f"no container {request.id}")

    def stats(self, request: Message, call: Call) -> Message:
        return make("StateResponse", id="x" * (MAX_DATA + 1))

    def fail(self, request: Message, call: Call) -> Message:
        raise ZeroDivisionError("oops")


class Pair:
    """A server of Tasks, and sockets connected to it."""

    def __init__(self) -> None:
        self.tasks = Tasks()
        self.errors: list[str] = []
        self.server = Server({TASK: self.tasks.handlers()}, lambda method, error: self.errors.append(method))

    def socket(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.server.serve_connection(theirs)
        ours.settimeout(PATIENCE)
        return ours

    def client(self) -> Client:
        return Client(self.socket(), "the shim")


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.tasks.released.set()
    made.server.close()


@pytest.fixture
def wild() -> Iterator[tuple[Client, socket.socket]]:
    """A client, and the bare socket of the server that the test is."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    client = Client(ours, "the agent")
    yield client, theirs
    theirs.close()
    client.close()


def frame(stream: int, kind: int, data: bytes, flags: int = 0) -> bytes:
    return struct.pack(">IIBB", len(data), stream, kind, flags) + data


def request(method: str = "State", content: bytes = b"", service: str = TASK) -> bytes:
    made = protobuf.message("ttrpc.Request")(service=service, method=method, payload=content)
    return bytes(made.SerializeToString())


def response(content: bytes) -> bytes:
    return bytes(protobuf.message("ttrpc.Response")(payload=content).SerializeToString())


def read_frame(sock: socket.socket) -> tuple[int, int, int, bytes]:
    def exactly(size: int) -> bytes:
        got = b""
        while len(got) < size:
            part = sock.recv(size - len(got))
            assert part, "the connection ended"
            got += part
        return got

    length, stream, kind, flags = struct.unpack(">IIBB", exactly(10))
    return stream, kind, flags, exactly(length)


def read_status(sock: socket.socket) -> tuple[int, int]:
    """The stream and the number of the status of the next response."""
    stream, kind, flags, data = read_frame(sock)
    assert (kind, flags) == (2, 0)
    return stream, protobuf.parse(protobuf.message("ttrpc.Response"), data).status.code


def in_thread(call: Callable[[], object]) -> Callable[[], object]:
    """Run `call` in the background; the function that is returned gives what it returned or raised."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join() -> object:
        thread.join(PATIENCE)
        assert outcome, "the call never ended"
        return outcome[0]

    return join


def test_call_returns_the_response(pair: Pair) -> None:
    client = pair.client()
    response = client.call(TASK, "State", make("StateRequest", id="c1"), PATIENCE)
    assert (response.id, response.pid) == ("c1", 7)
    client.call(TASK, "State", make("StateRequest"), None)
    assert pair.tasks.timeouts == [PATIENCE, None]
    client.close()


def test_calls_overtake_one_that_waits(pair: Pair) -> None:
    client = pair.client()
    waiting = in_thread(lambda: client.call(TASK, "Wait", make("WaitRequest"), PATIENCE))
    assert pair.tasks.waiting.acquire(timeout=PATIENCE)
    for number in range(50):
        assert client.call(TASK, "State", make("StateRequest", id=str(number)), PATIENCE).id == str(number)
    pair.tasks.released.set()
    assert waiting().exit_status == 3  # type: ignore[attr-defined]


def test_threads_share_a_connection(pair: Pair) -> None:
    client = pair.client()

    def calls(name: str) -> set[str]:
        long = name * 20_000
        return {client.call(TASK, "State", make("StateRequest", id=long), PATIENCE).id[: len(name)] for _ in range(20)}

    joins = {f"t{number}": in_thread(lambda name=f"t{number}": calls(name)) for number in range(8)}  # type: ignore[misc]
    assert {name: join() for name, join in joins.items()} == {name: {name} for name in joins}


@pytest.mark.parametrize(
    "service, method, kind, code",
    [
        (TASK, "Kill", "KillRequest", "NOT_FOUND"),
        (TASK, "Checkpoint", "CheckpointTaskRequest", "UNIMPLEMENTED"),
        ("containerd.task.v3.Task", "State", "StateRequest", "UNIMPLEMENTED"),
        (TASK, "Stats", "StatsRequest", "RESOURCE_EXHAUSTED"),
        (TASK, "Pause", "PauseRequest", "INTERNAL"),
    ],
)
def test_status_of_a_failed_call(pair: Pair, service: str, method: str, kind: str, code: str) -> None:
    client = pair.client()
    with pytest.raises(RpcError) as caught:
        client.call(service, method, make(kind, id="c9"), PATIENCE)
    assert caught.value.code == code
    assert pair.errors == (["Pause"] if code == "INTERNAL" else [])
    assert client.call(TASK, "State", make("StateRequest"), PATIENCE).pid == 7


def test_timeout_says_who_did_not_answer(pair: Pair) -> None:
    client = pair.client()
    with pytest.raises(CallTimeout, match=r"the shim did not answer Wait within 0\.05 s"):
        client.call(TASK, "Wait", make("WaitRequest"), 0.05)
    pair.tasks.released.set()  # the late answer must not be taken for that of a later call
    assert client.call(TASK, "State", make("StateRequest", id="next"), PATIENCE).id == "next"


def test_request_that_is_too_large_is_not_sent(pair: Pair) -> None:
    client = pair.client()
    with pytest.raises(RpcError, match="RESOURCE_EXHAUSTED"):
        client.call(TASK, "State", make("StateRequest", id="x" * MAX_DATA), PATIENCE)
    assert client.call(TASK, "State", make("StateRequest"), PATIENCE).pid == 7


def test_close_ends_calls_under_way(pair: Pair) -> None:
    client = pair.client()
    waiting = in_thread(lambda: client.call(TASK, "Wait", make("WaitRequest"), None))
    assert pair.tasks.waiting.acquire(timeout=PATIENCE)
    client.close()
    client.close()
    assert isinstance(waiting(), ConnectionLost)
    assert not client.is_open
    with pytest.raises(ConnectionLost, match="the connection to the shim was closed"):
        client.call(TASK, "State", make("StateRequest"), PATIENCE)
    assert pair.tasks.gone is not None
    assert pair.tasks.gone.wait(PATIENCE), "the handler was not told that its client has gone"


def test_server_close_ends_its_clients_and_its_listener(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    pair = Pair()
    serving = threading.Thread(target=pair.server.serve, args=(listener,))
    serving.start()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    client = Client(sock, "the shim")
    assert client.call(TASK, "State", make("StateRequest", id="a"), PATIENCE).id == "a"
    pair.server.close()
    serving.join(PATIENCE)
    assert not serving.is_alive()
    with pytest.raises(ConnectionLost):
        client.call(TASK, "State", make("StateRequest"), PATIENCE)


# A server's peer: what it answers, and that it goes on.


@pytest.mark.parametrize(
    "bad, status",
    [
        (frame(1, 1, b"\xff\xff\xff"), 3),
        (frame(1, 1, request(content=b"\xff\xff\xff")), 3),
        (frame(1, 1, request(service="nope")), 12),
        (frame(1, 1, request(method="__class__")), 12),
        (frame(1, 1, request(), flags=2), 12),
        (frame(2, 1, request()), 3),
        (frame(1, 1, b"x" * (MAX_DATA + 1)), 8),
    ],
    ids=["no request", "no message", "no service", "no method", "stream", "even stream", "too large"],
)
def test_server_refuses_and_goes_on(pair: Pair, bad: bytes, status: int) -> None:
    sock = pair.socket()
    sock.sendall(bad)
    assert read_status(sock)[1] == status
    sock.sendall(frame(99, 3, b"data of nothing") + frame(101, 77, b"") + frame(103, 1, request()))
    assert read_status(sock) == (103, 0)


def test_server_refuses_a_stream_that_was_used(pair: Pair) -> None:
    sock = pair.socket()
    sock.sendall(frame(5, 1, request()))
    assert read_status(sock) == (5, 0)
    sock.sendall(frame(3, 1, request()))
    assert read_status(sock) == (3, 3)


@pytest.mark.parametrize(
    "bad", [b"\xff" * 10, b"\x00\x00\x00\x40", frame(1, 1, b"y" * 50)[:-1]], ids=["header", "short", "cut"]
)
def test_server_ends_a_connection_that_is_no_ttrpc(pair: Pair, bad: bytes) -> None:
    sock = pair.socket()
    sock.sendall(bad)
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b""
    assert pair.client().call(TASK, "State", make("StateRequest"), PATIENCE).pid == 7


def test_a_client_that_reads_nothing_holds_nobody_up(pair: Pair) -> None:
    deaf = pair.socket()
    big = make("StateRequest", id="z" * 200_000).SerializeToString()
    for stream in range(1, 99, 2):  # many times what the socket holds
        deaf.sendall(frame(stream, 1, request(content=big)))
    assert pair.client().call(TASK, "State", make("StateRequest"), PATIENCE).pid == 7


# A client's peer is the guest.


def call_state(client: Client, timeout: float = PATIENCE) -> Callable[[], object]:
    return in_thread(lambda: client.call(TASK, "State", make("StateRequest"), timeout))


@pytest.mark.parametrize(
    "answer, code",
    [
        (frame(1, 2, b"\xff\xff"), "INTERNAL"),
        (frame(1, 2, b"\x12\x02\xff\xff"), "INTERNAL"),
        (frame(1, 2, b"\x0a\x02\x08\x63"), "UNKNOWN"),
        (frame(1, 3, b""), "UNIMPLEMENTED"),
        (frame(1, 2, b"x" * (MAX_DATA + 1)), "RESOURCE_EXHAUSTED"),
        (frame(1, 2, b"x" * (ANSWER_DATA + 1)), "RESOURCE_EXHAUSTED"),
        (frame(1, 2, response(b"\x0a\x00" * (ANSWER_ELEMENTS + 1))), "INTERNAL"),
    ],
    ids=["no response", "no message", "status 99", "stream", "too large", "larger than asked for", "too many elements"],
)
def test_client_survives_a_bad_answer(wild: tuple[Client, socket.socket], answer: bytes, code: str) -> None:
    client, server = wild
    bad = call_state(client)
    read_frame(server)
    server.sendall(answer)
    error = bad()
    assert isinstance(error, RpcError)
    assert error.code == code
    good = call_state(client)
    stream = read_frame(server)[0]
    server.sendall(frame(stream + 2, 2, b"nobody asked") + frame(stream, 2, b""))
    assert good().pid == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("bad", [b"\xff" * 10, frame(1, 2, b"y" * 50)[:-1]], ids=["header", "cut"])
def test_client_ends_with_a_server_that_is_no_ttrpc(wild: tuple[Client, socket.socket], bad: bytes) -> None:
    client, server = wild
    call = call_state(client)
    read_frame(server)
    server.sendall(bad)
    server.shutdown(socket.SHUT_WR)
    error = call()
    assert isinstance(error, ConnectionLost)
    assert "the agent" in error.message


def test_an_answer_has_the_room_that_its_caller_gives_it(wild: tuple[Client, socket.socket]) -> None:
    client, server = wild
    call = in_thread(lambda: client.call(TASK, "State", make("StateRequest"), PATIENCE, room=1 << 20))
    read_frame(server)
    content = make("StateResponse", id="x" * (2 * ANSWER_DATA)).SerializeToString()
    server.sendall(frame(1, 2, response(content)))
    assert len(call().id) == 2 * ANSWER_DATA  # type: ignore[attr-defined]


def test_client_ends_with_a_server_that_announces_without_sending(wild: tuple[Client, socket.socket]) -> None:
    client, server = wild
    call = call_state(client, timeout=0.1)
    read_frame(server)
    server.sendall(struct.pack(">IIBB", MAX_DATA, 1, 2, 0))
    assert isinstance(call(), CallTimeout)
    client.close()


def test_client_does_not_wait_for_a_server_that_reads_nothing(wild: tuple[Client, socket.socket]) -> None:
    client, _ = wild
    big = make("StateRequest", id="z" * (MAX_DATA - 100))
    with pytest.raises(CallTimeout, match="the agent did not answer State"):
        client.call(TASK, "State", big, 0.1)
    # Half a frame is on its way, so that nothing can follow it.
    with pytest.raises(ConnectionLost):
        client.call(TASK, "State", make("StateRequest"), PATIENCE)
