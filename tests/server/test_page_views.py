"""What the page shows of a sandbox: processes, console, differences between siblings."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from e2b import Sandbox

from pyvmm_sandbox import Entry
from pyvmm_server import filesystem
from pyvmm_server.errors import ClientError
from pyvmm_server.page import differences, processes
from tests.kata.oci_runtime import PATIENCE, eventually
from tests.server.conftest import Server


def get(server: Server, box: Sandbox, what: str, **options: Any) -> Any:
    answer = server.http("GET", f"/pyvmm/sandboxes/{box.sandbox_id}/{what}", timeout=60, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_processes_are_those_of_the_kernel(server: Server) -> None:
    box = Sandbox.create(**server.client())
    started = box.commands.run("exec sleep 98765", background=True)
    found = {each["pid"]: each for each in get(server, box, "processes")["processes"]}
    mine = found[started.pid]
    assert mine["command"].endswith("sleep 98765")
    assert mine["state"] in "RSDI" and mine["memory"] > 0 and mine["parent"] in found
    assert not [each for each in found.values() if processes.SCRIPT in each["command"]]
    box.pause()
    answer = server.http("GET", f"/pyvmm/sandboxes/{box.sandbox_id}/processes")
    assert (answer.status_code, "is paused" in answer.text) == (409, True)
    box.kill()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "==> /proc/1/stat <==",
        "==> /proc/1/stat <==\n1 (a",
        "==> /proc/1/stat <==\n1 (a) S x\n==> /proc/1/cmdline <==\nsh\0",
        "==> /proc/99999999999/stat <==\n",
        "no such thing",
        "==> /proc/7/cmdline <==\n==> /proc/8/stat <==\n",
    ],
)
def test_a_sandbox_that_lies_about_its_processes_has_none(text: str) -> None:
    assert processes.parse(text) == []


def test_a_process_can_have_any_name() -> None:
    numbers = " ".join(map(str, range(100, 117)))
    text = f"==> /proc/7/stat <==\n7 (a ) S (b) S 3 {numbers} 5 9 10 11\n\n==> /proc/7/cmdline <==\n"
    (found,) = processes.parse(text)
    assert (found.pid, found.parent, found.command) == (7, 3, "[a ) S (b]")


def test_the_console_is_that_of_the_machine(server: Server) -> None:
    box = Sandbox.create(**server.client())
    assert get(server, box, "console")["text"] == ""
    folder = server.place / "state" / f"e2b-{box.sandbox_id}"
    known = json.loads((folder / "state.json").read_text())
    machine = folder.parent / f"@{known['monitor']}-{known['monitorStart']}"
    (machine / "console.log").write_bytes(b"lost" * 20000 + b"<b>[    0.0] Linux\xff\n")
    text = get(server, box, "console")["text"]
    assert text.endswith("<b>[    0.0] Linux\ufffd\n") and len(text) <= 64 << 10
    box.kill()


def test_the_difference_of_siblings_is_what_one_has_done(server: Server, tmp_path: Path) -> None:
    box = Sandbox.create(**server.client())
    (fork,) = box.fork(count=1)
    assert isinstance(fork, Sandbox)
    (tmp_path / "same").write_text("same")
    started = fork.commands.run("exec sleep 98764", background=True)
    cmdline = Path("/proc", str(started.pid), "cmdline")
    eventually(lambda: cmdline.read_bytes().startswith(b"sleep"), "the shell has not become sleep")
    query = {"with": fork.sandbox_id, "path": str(tmp_path)}
    found = get(server, box, "differences", params=query)
    # These machines share the file system and the processes of the host
    assert (found["files"], found["more"], found["memory"]) == ([], 0, [4096, 4096])
    assert started.pid not in [each["pid"] for side in found["processes"].values() for each in side]
    for wrong, status in (
        ({"with": box.sandbox_id}, 400),
        ({"with": "nothing"}, 404),
        ({"with": fork.sandbox_id, "path": "etc"}, 400),
        ({"with": fork.sandbox_id, "path": "/nothing/there"}, 404),
    ):
        answer = server.http("GET", f"/pyvmm/sandboxes/{box.sandbox_id}/differences", params=wrong)
        assert (wrong, answer.status_code) == (wrong, status)
    assert (
        server.http("GET", f"/pyvmm/sandboxes/{box.sandbox_id}/differences", "e2b_1", params=query).status_code == 404
    )
    other = Sandbox.create(**server.client("e2b_1"))
    foreign = {"with": other.sandbox_id}
    assert server.http("GET", f"/pyvmm/sandboxes/{box.sandbox_id}/differences", params=foreign).status_code == 404
    for each in (box, fork, other):
        each.kill()
    eventually(lambda: not {box.sandbox_id, fork.sandbox_id, other.sandbox_id} & server.machines, "one is left")


def entry(path: Path, root: Path) -> Entry:
    status = path.lstat()
    kind = "directory" if path.is_dir() else "file"
    place = f"/{path.relative_to(root)}"
    return Entry(place, kind, status.st_size, status.st_mode & 0o7777, 0, 0, status.st_mtime)


def test_files_differ_by_what_is_written(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for side in (one, other):
        (side / "kept").mkdir(parents=True)
        for name in ("kept/same", "grown", "touched", "gone"):
            (side / name).write_text("text")
            os.utime(side / name, (1, 1))
    (other / "grown").write_text("more text")
    os.utime(other / "grown", (1, 1))
    os.utime(other / "touched", (2, 2))
    (other / "gone").unlink()
    (other / "kept" / "new").write_text("new")
    sides = [[entry(each, side) for each in sorted(side.rglob("*"))] for side in (one, other)]
    found = {each["path"]: each["kind"] for each in differences.compare(*sides)}
    assert found == {"/gone": "here", "/grown": "changed", "/kept/new": "there", "/touched": "changed"}
    assert differences.compare(sides[0], sides[0]) == []


@pytest.mark.parametrize("modified", [float("nan"), float("inf"), -1e300, 1e300])
def test_a_sandbox_can_send_any_time(modified: float) -> None:
    wrong = Entry("/a\udcff", "file", 1, 0o644, 0, 0, modified)
    users: Any = SimpleNamespace(name_of=lambda kind, number: "root")
    assert filesystem.describe(wrong, users)["modifiedTime"] == "1970-01-01T00:00:00Z"
    (found,) = differences.compare([wrong], [])
    assert (found["path"], found["kind"]) == ("/a\ufffd", "here")
    assert found["here"]["modifiedTime"] == "1970-01-01T00:00:00Z"


class LyingFiles:
    """Lists without end."""

    def entries(self, path: str, *, depth: int = 1, max_entries: int = 1_000_000) -> list[Entry]:
        if max_entries < 60:
            raise OSError(errno.EFBIG, "it has too many", path)
        return [Entry(f"{path}/{number}", "directory", 0, 0o755, 0, 0, 0) for number in range(60)]


def test_a_sandbox_that_lists_without_end_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "ENTRIES", 1000)
    box: Any = SimpleNamespace(files=LyingFiles())
    with pytest.raises(ClientError, match="too many"):
        differences.entries(box, "/")


def test_listings_that_hang_hold_no_other_key_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, began = threading.Event(), threading.Semaphore(0)

    def entries(box: str, path: str) -> list[Entry]:
        began.release()
        if box.startswith("mine"):
            ended.wait()
        return []

    async def live(record: Any) -> Any:
        return SimpleNamespace(box=record.id, handle=SimpleNamespace(relay=None))

    async def compare() -> None:
        def call(owner: str) -> Any:
            def get(_: str, name: str) -> Any:
                return SimpleNamespace(id=f"{owner} {name}", state="running", node="")

            request = SimpleNamespace(query_params={"with": "b"})
            sandboxes = SimpleNamespace(get=get, live=live)
            return SimpleNamespace(owner=owner, record=get(owner, "a"), request=request, sandboxes=sandboxes)

        hanging = [asyncio.ensure_future(differences.answer(call("mine"))) for _ in range(3)]
        for _ in range(4):  # both listings of two of them
            await asyncio.to_thread(began.acquire)
        async with asyncio.timeout(PATIENCE):
            assert (await differences.answer(call("another's"))).status_code == 200
        ended.set()
        await asyncio.gather(*hanging)

    monkeypatch.setattr(differences, "entries", entries)
    monkeypatch.setattr(differences, "_memory", lambda box: 0)
    monkeypatch.setattr(processes, "listed", lambda box: [])
    asyncio.run(compare())
