"""ttrpc between real sockets: what both sides promise, and peers that keep to nothing.  Our protocol buffers beside
Google's: each reads what the other writes, and refuses what the other does."""

from __future__ import annotations

import math
import runpy
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyvmm_kata.protocol import protobuf
from pyvmm_kata.protocol.protobuf import wire
from pyvmm_kata.protocol.ttrpc import (
    ANSWER_DATA,
    ANSWER_ELEMENTS,
    MAX_DATA,
    MAX_SILENT,
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


def test_connections_without_a_call_give_way(tmp_path: Path) -> None:
    """Each takes a thread and a descriptor of the shim; a client that has called keeps its connection."""
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    pair = Pair()
    serving = threading.Thread(target=pair.server.serve, args=(listener,), daemon=True)
    serving.start()

    def connected() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)  # which waits while the backlog is full
        sock.settimeout(PATIENCE)
        return sock

    client = Client(connected(), "the shim")
    assert client.call(TASK, "State", make("StateRequest", id="a"), PATIENCE).id == "a"
    silent = [connected() for _ in range(10 * MAX_SILENT)]
    for sock in silent[: 9 * MAX_SILENT]:
        assert sock.recv(1) == b""
    last = Client(connected(), "the shim")
    for each in (client, last):
        assert each.call(TASK, "State", make("StateRequest", id="b"), PATIENCE).id == "b"
    assert pair.server.connections <= MAX_SILENT + 2
    pair.server.close()
    serving.join(PATIENCE)
    assert [sock.recv(1) for sock in silent[9 * MAX_SILENT :]] == [b""] * MAX_SILENT
    for sock in silent:
        sock.close()


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


SHORT = """
import resource, socket, sys, threading
from pyvmm_kata.protocol import protobuf
from pyvmm_kata.protocol.ttrpc import Client, Server
made = protobuf.message("containerd.task.v2.StateResponse")
server = Server({"containerd.task.v2.Task": {"State": lambda request, call: made(pid=7)}})
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(100)
threading.Thread(target=server.serve, args=(listener,), daemon=True).start()
limit = getattr(resource, sys.argv[2])
before = resource.getrlimit(limit)
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
waiting = [socket.socket(socket.AF_UNIX) for _ in range(20)]
resource.setrlimit(limit, (now if limit == resource.RLIMIT_AS else 3, before[1]))
for sock in waiting:
    sock.connect(sys.argv[1])
    sock.settimeout(60)
if limit == resource.RLIMIT_AS:
    assert waiting[-1].recv(1) == b"", "it is closed: there is no thread for it"
resource.setrlimit(limit, before)
last = socket.socket(socket.AF_UNIX)
last.connect(sys.argv[1])
request = protobuf.message("containerd.task.v2.StateRequest")()
print(Client(last, "the shim").call("containerd.task.v2.Task", "State", request, 60).pid)
"""


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_NOFILE"])
def test_server_without_threads_or_descriptors_goes_on_when_there_are_some(tmp_path: Path, limit: str) -> None:
    command = [sys.executable, "-c", SHORT, str(tmp_path / "s"), limit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert (done.stdout, done.returncode) == ("7\n", 0) and "Traceback" not in done.stderr, done


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


# -- messages ---------------------------------------------------------------------------------------------------------

COMPILE = Path(__file__).parents[2] / "examples" / "kata" / "proto" / "compile.py"
KINDS = (
    "grpc.Spec",
    "grpc.CreateContainerRequest",
    "grpc.StatsContainerResponse",
    "ttrpc.Response",
    "io.containerd.cgroups.v2.Metrics",
    "containerd.task.v3.StateResponse",
    "containerd.events.TaskExit",
)
NUMBERS = {
    wire.INT64: st.integers(-(1 << 63), (1 << 63) - 1),
    wire.UINT64: st.integers(0, (1 << 64) - 1),
    wire.INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    wire.UINT32: st.integers(0, (1 << 32) - 1),
    wire.ENUM: st.integers(0, 5),
    wire.BOOL: st.booleans(),
    wire.STRING: st.text(max_size=20),
    wire.BYTES: st.binary(max_size=20),
    wire.DOUBLE: st.floats(allow_nan=False),
    wire.FLOAT: st.floats(width=32, allow_nan=False),
}


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Google's classes of the same messages."""
    make = runpy.run_path(str(COMPILE), run_name="test")["descriptor_set"]
    pool = descriptor_pool.DescriptorPool()
    for file in make(str(tmp_path_factory.mktemp("proto") / "set")).file:
        pool.Add(file)
    return {kind: message_factory.GetMessageClass(pool.FindMessageTypeByName(kind)) for kind in KINDS}


@cache
def fields_of(kind: str, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Fields for a message, as both constructors take them."""
    choices: dict[str, st.SearchStrategy[Any]] = {}
    for field in protobuf.message(kind).DESCRIPTOR.fields:
        if field.count == wire.MAP:
            key, value, inner = field.detail
            values = NUMBERS[value] if value != wire.MESSAGE else fields_of(inner, depth + 1)
            # Google's constructor takes no dictionaries as values of a map
            if value != wire.MESSAGE:
                choices[field.name] = st.dictionaries(NUMBERS[key], values, max_size=3)
            continue
        if field.kind == wire.MESSAGE:
            if depth > 3:
                continue
            one: st.SearchStrategy[Any] = fields_of(field.detail, depth + 1)
        else:
            one = NUMBERS[field.kind]
        choices[field.name] = st.lists(one, max_size=3) if field.count == wire.REPEATED else one
    return st.fixed_dictionaries({}, optional=choices)


messages = st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind), fields_of(kind)))


@settings(deadline=None)
@given(what=messages)
def test_each_reads_what_the_other_writes(peers: dict[str, Any], what: tuple[str, dict[str, Any]]) -> None:
    kind, fields = what
    ours, theirs = protobuf.message(kind)(**fields), peers[kind](**fields)
    assert peers[kind].FromString(ours.SerializeToString()) == theirs
    again = protobuf.parse(protobuf.message(kind), theirs.SerializeToString(deterministic=True))
    assert again == ours
    assert peers[kind].FromString(again.SerializeToString()) == theirs
    assert ours.ByteSize() == theirs.ByteSize()


@settings(deadline=None)
@given(kind=st.sampled_from(KINDS), data=st.binary(max_size=60))
@example(kind="grpc.Spec", data=b"\x8d\x80\x80\x80\x80\x00\x00\x00\x00\x00")  # a tag of six bytes
@example(kind="grpc.Spec", data=b"\xf8\xff\xff\xff\x1f\x00")  # one of 33 bits
@example(kind="grpc.Spec", data=b"\x0a\x81\x80\x80\x80\x80\x00a")  # a length of six bytes
def test_bytes_that_are_no_message(peers: dict[str, Any], kind: str, data: bytes) -> None:
    """Groups apart, which only we refuse, both take the same; and what both take means the same."""
    try:
        ours = protobuf.parse(protobuf.message(kind), data)
    except ValueError:
        return
    try:
        theirs = peers[kind].FromString(data)
    except DecodeError:
        pytest.fail(f"only we take {data.hex()}")
    assert [name.name for name, _ in theirs.ListFields()] == [
        field.name
        for field in ours.DESCRIPTOR.fields
        if ours.HasField(field.name) and getattr(ours, field.name) not in (0, "", b"", [], {})
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x0a\x05abc", "longer than its message"),
        (b"\x0a\xff\xff\xff\xff\x0fabc", "longer than its message"),
        (b"\x18" + b"\xff" * 11, "number without an end"),
        (b"\x0a", "number without an end"),
        (b"\x0a\x02\xff\xfe", "utf-8"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x00\x00", "without a number"),
    ],
)
def test_broken_encodings(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        protobuf.parse(protobuf.message("ttrpc.Request"), data)


def test_messages_within_messages_without_end() -> None:
    """Of a recursive message: a guest's nesting must not be our stack's."""
    assert protobuf.message("google.protobuf.Any")  # no kind that we use is recursive: one is made here
    from pyvmm_kata.protocol.protobuf.messages import Descriptor, Message

    made: type[Message] = type("Deep", (Message,), {"__slots__": ()})
    made.DESCRIPTOR = Descriptor("test.Deep", [("inner", 1, wire.MESSAGE, wire.SINGLE, "")], lambda _: made)
    data = b""
    for _ in range(300):
        data = b"\x0a" + encoding_of(len(data)) + data
    with pytest.raises(ValueError, match="too many"):
        made.FromString(data)


def encoding_of(number: int) -> bytes:
    out = bytearray()
    wire.put_varint(out, number)
    return bytes(out)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"timeout_nano": 1 << 63}, ValueError),
        ({"timeout_nano": "1"}, TypeError),
        ({"service": 1}, TypeError),
        ({"service": "\ud800"}, ValueError),
        ({"payload": "text"}, TypeError),
        ({"metadata": [1]}, TypeError),
        ({"no_such": 1}, ValueError),
    ],
)
def test_values_that_do_not_fit(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        protobuf.message("ttrpc.Request")(**fields)


def test_a_message_is_there_once_it_was_touched() -> None:
    spec = protobuf.message("grpc.Spec")()
    assert spec.Process.User.UID == 0
    assert not spec.HasField("Process")
    assert spec.SerializeToString() == b""
    spec.Process.User.UID = 0
    assert spec.HasField("Process")
    parsed = protobuf.parse(protobuf.message("grpc.Spec"), spec.SerializeToString())
    assert parsed.HasField("Process")
    assert parsed.Process.HasField("User")
    with pytest.raises(AttributeError):
        spec.Process = protobuf.message("grpc.Process")()
    with pytest.raises(AttributeError):
        _ = spec.NoSuch


def test_numbers_with_a_fraction() -> None:
    assert wire.checked(wire.DOUBLE, 1) == 1.0
    out = bytearray()
    wire.put(out, wire.DOUBLE, math.pi)
    assert wire.to_value(wire.DOUBLE, bytes(out)) == math.pi
    out.clear()
    wire.put(out, wire.FLOAT, 0.5)
    assert out == struct.pack("<f", 0.5)
