"""E2B's own client, unmodified, and the server with fake machines."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator
from typing import Any

import e2b
import httpx
import pytest
from e2b import (
    AsyncSandbox,
    AuthenticationException,
    CommandExitException,
    FileNotFoundException,
    InvalidArgumentException,
    PtySize,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    SandboxQuery,
    SandboxState,
    TimeoutException,
)
from e2b.sandbox.filesystem.filesystem import WriteEntry
from e2b.sandbox.filesystem.watch_handle import FilesystemEventType

from pyvmm_kata.image_store.store import ImageStore
from tests.kata.oci_runtime import eventually, needs_namespaces
from tests.server.conftest import Server, free_port

pytestmark = needs_namespaces
WEB = """
import http.server, json, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        while "chunked" in self.headers.get("Transfer-Encoding", "") and (size := int(self.rfile.readline(), 16)):
            body += self.rfile.read(size)
            self.rfile.readline()
        data = json.dumps({"path": self.path, "size": len(body), "host": self.headers["Host"]}).encode()
        self.send_response(200)
        self.send_header("X-From", "inside")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    do_GET = do_POST
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


@pytest.fixture
def box(server: Server) -> Iterator[Sandbox]:
    with Sandbox.create(envs={"FROM": "the sandbox"}, **server.client()) as made:
        yield made


def test_commands(box: Sandbox) -> None:
    seen: list[str] = []
    done = box.commands.run(
        "echo $FROM $B; echo err >&2", envs={"B": "b"}, on_stdout=seen.append, on_stderr=lambda text: seen.append(text)
    )
    assert (done.stdout, done.stderr, done.exit_code) == ("the sandbox b\n", "err\n", 0)
    assert sorted(seen) == ["err\n", "the sandbox b\n"]
    with pytest.raises(CommandExitException) as error:
        box.commands.run("echo why >&2; exit 3")
    assert (error.value.exit_code, error.value.stderr) == (3, "why\n")
    assert box.commands.run("pwd", cwd="/tmp").stdout == "/tmp\n"
    with pytest.raises(InvalidArgumentException, match="cwd '/none' does not exist"):
        box.commands.run("pwd", cwd="/none")
    with pytest.raises(AuthenticationException, match="nobody-has-this-name"):
        box.commands.run("true", user="nobody-has-this-name")
    big = box.commands.run("head -c 3000000 /dev/zero | tr '\\0' x")
    assert big.stdout == "x" * 3_000_000


def test_output_comes_as_it_is_printed(box: Sandbox) -> None:
    command = box.commands.run("read a; echo got $a; read b; echo got $b", background=True, stdin=True)
    output = iter(command)
    for word in ("one", "two"):
        box.commands.send_stdin(command.pid, f"{word}\n")
        assert next(output) == (f"got {word}\n", None, None)
    assert command.wait().exit_code == 0
    reader = box.commands.run("cat", background=True, stdin=True)
    box.commands.stream_input(reader.pid, ["a", b"b"])
    box.commands.close_stdin(reader.pid)
    assert reader.wait().stdout == "ab"
    assert box.commands.run("cat").stdout == ""  # without stdin=True, it has none


def test_commands_in_the_background(box: Sandbox) -> None:
    command = box.commands.run("echo begun; exec sleep 600", background=True)
    assert next(iter(command)) == ("begun\n", None, None)
    command.disconnect()
    (found,) = box.commands.list()
    assert (found.pid, found.cmd, found.args[:2]) == (command.pid, "/bin/bash", ["-l", "-c"])
    assert box.commands.run(f"kill -0 {command.pid}").exit_code == 0  # its number inside the sandbox
    again = box.commands.connect(command.pid)
    assert box.commands.kill(command.pid) is True
    with pytest.raises(CommandExitException) as error:
        again.wait()
    assert error.value.exit_code == 137
    eventually(lambda: box.commands.list() == [], "the command is still listed")
    assert box.commands.kill(command.pid) is False
    with pytest.raises(e2b.NotFoundException):
        box.commands.connect(command.pid)


def test_a_command_that_takes_too_long_is_killed(box: Sandbox) -> None:
    with pytest.raises(TimeoutException):
        box.commands.run("sleep 600.25 & sleep 600", timeout=1)
    eventually(lambda: box.commands.list() == [], "the command still runs")
    assert box.commands.run("pgrep -fx 'sleep 600.25' || echo none").stdout == "none\n"


def test_a_reader_that_is_slow_or_gone(box: Sandbox) -> None:
    command = box.commands.run("yes", background=True)
    next(iter(command))
    command.disconnect()
    (found,) = box.commands.list()
    assert box.commands.run("echo others go on").stdout == "others go on\n"
    assert box.commands.kill(found.pid)


def test_files(box: Sandbox, server: Server) -> None:
    folder = f"{server.place}/files/t"
    written = box.files.write(f"{folder}/new/a.txt", "content ä")
    assert (written.name, written.path, written.type) == ("a.txt", f"{folder}/new/a.txt", e2b.FileType.FILE)
    assert box.files.read(f"{folder}/new/a.txt") == "content ä"
    data = bytes(range(256)) * 12_000
    box.files.write(f"{folder}/big", io.BytesIO(data), gzip=True)
    assert bytes(box.files.read(f"{folder}/big", format="bytes")) == data
    with box.files.read(f"{folder}/big", format="stream") as parts:
        assert b"".join(parts) == data
    box.files.write(f"{folder}/big2", data)
    assert bytes(box.files.read(f"{folder}/big2", format="bytes")) == data
    several = [WriteEntry(path=f"{folder}/{name}", data=name) for name in ("x", "y ü")]
    assert [each.name for each in box.files.write_files(several)] == ["x", "y ü"]
    assert box.files.read(f"{folder}/y ü") == "y ü"
    box.files.write("relative", "home")
    assert box.files.read(f"{server.place}/home/relative") == box.files.read("~/relative") == "home"

    box.commands.run(f"ln -s new {folder}/link && ln -s none {folder}/dangling && chmod 750 {folder}/x")
    found = {each.name: each for each in box.files.list(folder)}
    assert sorted(found) == ["big", "big2", "dangling", "link", "new", "x", "y ü"]
    assert (found["link"].type, found["link"].symlink_target) == (e2b.FileType.SYMLINK, "new")
    assert (found["x"].permissions, found["x"].owner, found["x"].size) == ("-rwxr-x---", "root", 1)
    assert f"{folder}/new/a.txt" in [each.path for each in box.files.list(folder, depth=2)]
    assert box.files.get_info(folder).type == e2b.FileType.DIR
    assert box.files.exists(f"{folder}/dangling") and not box.files.exists(f"{folder}/none")

    moved = box.files.rename(f"{folder}/x", f"{folder}/z")
    assert moved.path == f"{folder}/z"
    assert box.files.make_dir(f"{folder}/made/deep") is True
    assert box.files.make_dir(f"{folder}/made/deep") is False
    box.files.remove(f"{folder}/made")
    box.files.remove(f"{folder}/made")  # what is not there is removed
    assert not box.files.exists(f"{folder}/made")


def test_errors_of_files(box: Sandbox, server: Server) -> None:
    folder = f"{server.place}/files"
    for call in (box.files.read, box.files.list, box.files.get_info, box.files.watch_dir):
        with pytest.raises(FileNotFoundException):
            call(f"{folder}/none")
    with pytest.raises(FileNotFoundException):
        box.files.rename(f"{folder}/none", f"{folder}/other")
    with pytest.raises(InvalidArgumentException, match="directory"):
        box.files.read(folder)
    with pytest.raises(InvalidArgumentException, match="directory"):
        box.files.write(folder, "x")
    with pytest.raises(e2b.TemplateException):
        box.files.write(f"{folder}/x", "x", metadata={"a": "b"})  # envd 0.6.1 has none


def test_urls_of_files(box: Sandbox, server: Server) -> None:
    path = f"{server.place}/files/signed"
    assert httpx.post(box.upload_url(path), files={"file": ("x", b"signed")}).status_code == 200
    assert httpx.get(box.download_url(path, use_signature_expiration=60)).text == "signed"
    for url in (
        box.download_url(path).replace("v1_", "v1_x"),
        box.download_url(path, use_signature_expiration=-10),
        box.upload_url(path),
    ):
        assert httpx.get(url).status_code == 404  # no sandbox has signed it
        assert httpx.get(url, headers={"E2b-Sandbox-Id": box.sandbox_id}).status_code == 401


def test_changes_of_directories(box: Sandbox, server: Server) -> None:
    folder = f"{server.place}/files/watched"
    box.files.make_dir(folder)
    watch = box.files.watch_dir(folder, recursive=True)
    box.files.make_dir(f"{folder}/sub")
    box.commands.run(f"echo > {folder}/sub/file; rm {folder}/sub/file")
    seen: list[tuple[str, FilesystemEventType]] = []

    def is_complete() -> bool:
        seen.extend((each.name, each.type) for each in watch.get_new_events())
        return ("sub/file", FilesystemEventType.REMOVE) in seen

    eventually(is_complete, "the changes are not reported")
    assert seen[0] == ("sub", FilesystemEventType.CREATE)
    assert ("sub/file", FilesystemEventType.CREATE) in seen
    watch.stop()
    with pytest.raises(SandboxException):
        watch.get_new_events()


def test_lists_and_information(server: Server) -> None:
    started = time.time()
    made = [Sandbox.create(metadata={"n": str(n), "of": "a & b=c"}, **server.client("e2b_1")) for n in range(3)]
    ids = [each.sandbox_id for each in made]
    info = made[0].get_info()
    assert info.metadata == {"n": "0", "of": "a & b=c"} and info.state == SandboxState.RUNNING
    assert abs(info.started_at.timestamp() - started) < 60
    assert 299 < (info.end_at - info.started_at).total_seconds() < 301
    pages, found = Sandbox.list(limit=2, order="asc", **server.client("e2b_1")), []
    while pages.has_next:
        items = pages.next_items()
        assert len(items) <= 2
        found += [each.sandbox_id for each in items]
    assert found == ids
    for query, wanted in (
        (SandboxQuery(metadata={"n": "1", "of": "a & b=c"}), ids[1:2]),
        (SandboxQuery(metadata={"n": "9"}), []),
        (SandboxQuery(state=[SandboxState.PAUSED]), []),
        (SandboxQuery(template="base"), ids[::-1]),
    ):
        answer = Sandbox.list(query=query, **server.client("e2b_1")).next_items()
        assert [each.sandbox_id for each in answer] == wanted
    made[0].set_timeout(1000)
    assert (made[0].get_info().end_at - info.end_at).total_seconds() > 600
    (metrics,) = made[0].get_metrics()
    assert metrics.mem_used == 4096 and metrics.cpu_count == 1
    for each in made:
        assert each.is_running() and each.kill() and not each.is_running() and not each.kill()
    with pytest.raises(SandboxNotFoundException):
        made[0].get_info()
    with pytest.raises(SandboxNotFoundException):
        made[0].set_timeout(10)
    with pytest.raises(TimeoutException):
        made[0].commands.run("true")


def test_another_client_connects(box: Sandbox, server: Server) -> None:
    box.files.write(f"{server.place}/files/shared", "1")
    other = Sandbox.connect(box.sandbox_id, timeout=900, **server.client())
    assert other.files.read(f"{server.place}/files/shared") == "1"
    assert other.commands.run("echo $FROM").stdout == "the sandbox\n"
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect("none", **server.client())


def test_keys_see_their_own_sandboxes_only(box: Sandbox, server: Server) -> None:
    other = server.client("e2b_1")
    assert Sandbox.list(**other).next_items() == []
    for call in (Sandbox.get_info, Sandbox.connect, Sandbox.pause, Sandbox.fork, Sandbox.create_snapshot):
        with pytest.raises(SandboxNotFoundException):
            call(box.sandbox_id, **other)
    assert Sandbox.kill(box.sandbox_id, **other) is False
    assert box.is_running()


def test_time_to_live(server: Server) -> None:
    box = Sandbox.create(timeout=1, **server.client())
    eventually(lambda: not box.is_running(), "its time was over")
    assert Sandbox.list(**server.client()).next_items() == []
    eventually(lambda: box.sandbox_id not in server.machines, "its machine is left")
    paused = Sandbox.create(timeout=1, lifecycle={"on_timeout": "pause"}, **server.client())
    eventually(lambda: paused.get_info().state == SandboxState.PAUSED, "it is not paused at the end of its time")
    assert Sandbox.connect(paused.sandbox_id, **server.client()).commands.run("echo on").stdout == "on\n"
    paused.kill()


def test_pause_and_resume(box: Sandbox, server: Server) -> None:
    command = box.commands.run("exec sleep 600", background=True)
    for _ in range(3):
        assert box.pause() is True and box.pause() is False
        assert not box.is_running() and box.get_info().state == SandboxState.PAUSED
        with pytest.raises(TimeoutException):
            box.commands.run("true")
        box.connect()
        assert [each.pid for each in box.commands.list()] == [command.pid]
    with pytest.raises(SandboxException, match="501"):
        box.pause(keep_memory=False)


def test_snapshots_and_forks(box: Sandbox, server: Server) -> None:
    snapshot = box.create_snapshot("ready")
    assert snapshot.names == ["ready"]
    assert [each.snapshot_id for each in Sandbox.list_snapshots(box.sandbox_id, **server.client()).next_items()] == [
        snapshot.snapshot_id
    ]
    for name in ("ready", snapshot.snapshot_id):
        with Sandbox.create(name, **server.client()) as copy:
            assert copy.commands.run("echo $FROM").stdout == "the sandbox\n"
    with pytest.raises(SandboxException, match="404"):
        Sandbox.create("ready", **server.client("e2b_1"))
    newer = box.create_snapshot("ready")
    assert [each.snapshot_id for each in Sandbox.list_snapshots(box.sandbox_id, **server.client()).next_items()] == [
        newer.snapshot_id
    ]
    assert Sandbox.delete_snapshot(newer.snapshot_id, **server.client()) is True
    assert Sandbox.delete_snapshot(newer.snapshot_id, **server.client()) is False
    copies = box.fork(count=2)
    assert len({each.sandbox_id for each in copies if isinstance(each, Sandbox)} | {box.sandbox_id}) == 3
    for each in copies:
        assert isinstance(each, Sandbox) and each.commands.run("echo copy").stdout == "copy\n"
        each.kill()


def test_an_image_of_the_store(server: Server) -> None:
    (server.place / "tree" / "etc").mkdir(parents=True)
    ImageStore(str(server.place / "images")).add(str(server.place / "tree"), "tiny:1")
    with Sandbox.create("tiny:1", **server.client()) as box:
        assert box.commands.run("echo from an image").stdout == "from an image\n"
        assert box.get_info().template_id == "tiny:1"
    for name in ("tiny:2", "tree", "./tree", str(server.place / "tree")):
        with pytest.raises(SandboxException, match="404"):
            Sandbox.create(name, **server.client())


def test_what_is_missing_is_a_sentence(box: Sandbox, server: Server) -> None:
    asked: tuple[dict[str, Any], ...] = (
        {"mcp": {"time": {}}},
        {"network": {"deny_out": ["0.0.0.0/0"]}},
        {"network": {"rules": {"a.example": [{"transform": {"headers": {"A": "b"}}}]}}},
    )
    for options in asked:
        with pytest.raises(SandboxException, match=r"501: .* is not available on this server"):
            Sandbox.create(**options, **server.client())
    with pytest.raises(SandboxException, match=r"400: .* has no network rules"):
        box.update_network({"deny_out": ["0.0.0.0/0"]})
    with pytest.raises(SandboxException, match="404: template 'none' does not exist"):
        Sandbox.create("none", **server.client())


def test_the_async_client(server: Server) -> None:
    async def use() -> None:
        made = await asyncio.gather(*(AsyncSandbox.create(**server.client()) for _ in range(3)))
        results = await asyncio.gather(*(box.commands.run(f"echo {n}") for n in range(5) for box in made))
        assert [each.stdout for each in results] == [f"{n}\n" for n in range(5) for _ in made]
        box = made[0]
        await box.files.write(f"{server.place}/files/async", b"1")
        assert await box.files.read(f"{server.place}/files/async") == "1"
        events: list[str] = []
        watch = await box.files.watch_dir(f"{server.place}/files", on_event=lambda event: events.append(event.name))
        await box.files.write(f"{server.place}/files/noticed", "1")
        while "noticed" not in events:
            await asyncio.sleep(0.01)  # the client calls back from a task of its own
        await watch.stop()  # type: ignore[no-untyped-call]
        command = await box.commands.run("exec sleep 600", background=True)
        assert await command.kill() is True
        for each in made:
            assert await each.kill()

    asyncio.run(use())


def test_terminals(box: Sandbox) -> None:
    terminal = box.pty.create(PtySize(rows=30, cols=100), envs={"PS1": "$ "})
    box.pty.send_stdin(terminal.pid, b"stty size; test -t 0 && echo a terminal; exit 4\n")
    output = bytearray()
    with pytest.raises(CommandExitException) as error:
        terminal.wait(on_pty=output.extend)
    assert error.value.exit_code == 4
    assert b"a terminal\r\n" in output
    other = box.pty.create(PtySize(rows=30, cols=100))
    box.pty.resize(other.pid, PtySize(rows=31, cols=101))
    assert box.pty.kill(other.pid) is True


def test_servers_inside_are_reached_by_their_host_name(box: Sandbox, server: Server) -> None:
    port = free_port()
    assert box.get_host(port) == f"{port}-{box.sandbox_id}.localhost:{server.port}"
    host = {"Host": box.get_host(port)}
    assert httpx.get(server.url, headers=host).status_code == 502
    box.files.write(f"{server.place}/files/web.py", WEB)
    box.commands.run(f"python3 {server.place}/files/web.py {port}", background=True)
    eventually(lambda: httpx.get(server.url, headers=host).status_code != 502, "the server does not start")
    found = httpx.post(f"{server.url}/a%20b?c=%2Fd", headers=host, content=b"x" * 300_000)
    assert found.json() == {"path": "/a%20b?c=%2Fd", "size": 300_000, "host": host["Host"]}
    chunked = httpx.post(server.url, headers=host, content=iter([b"12", b"345"]))
    assert chunked.json()["size"] == 5 and chunked.headers["x-from"] == "inside"
