"""Templates that E2B's own client builds, with fake machines: their commands run here, in folders of the tests."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import itertools
import os
import signal
import socket
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import AsyncTemplate, BuildException, Sandbox, SandboxException, Template, TemplateException, wait_for_port

from pyvmm_kata.image_store.store import ImageStore
from pyvmm_server import command
from pyvmm_server.store import Record, Store
from tests.kata.oci_runtime import eventually, needs_namespaces
from tests.server.conftest import Server, running

pytestmark = needs_namespaces


@pytest.fixture
def place(server: Server, tmp_path: Path) -> str:
    """A folder that commands of sandboxes reach."""
    return str(tmp_path)


def test_a_template_from_a_template(server: Server, place: str) -> None:
    assert Template.exists("base", **server.client())
    assert not Template.exists("first", **server.client())
    entries: list[str] = []
    steps = (
        Template()
        .from_template("base")
        .set_envs({"COLOR": "a b", "N": "1"})
        .set_workdir(f"{place}/work")
        .run_cmd("echo $COLOR$N > made; echo printed; echo warned >&2")
        .run_cmd("pwd >> made", user="root")
    )
    built = Template.build(steps, "first", on_build_logs=lambda each: entries.append(each.message), **server.client())
    assert {"printed", "warned", "the template is ready"} <= set(entries)
    assert Template.exists("first", **server.client())
    assert not Template.exists("first", **server.client("e2b_1"))
    for name in ("first", "first:default", built.template_id, f"first:{built.build_id}"):
        with Sandbox.create(name, **server.client()) as box:
            assert box.commands.run("cat made; echo $COLOR").stdout == f"a b1\n{place}/work\na b\n"
            assert box.files.read("made").startswith("a b1\n")
            taken = server.http("POST", f"/sandboxes/{box.sandbox_id}/snapshots", json={"name": "first"})
            assert taken.status_code == 409 and "a template of this key" in taken.json()["message"]
    with pytest.raises(SandboxException, match="404"):
        Sandbox.create("first", **server.client("e2b_1"))
    second = Template().from_template("first").run_cmd("test \"$COLOR$N\" = 'a b1' && cat made")
    assert Template.build(second, "second", **server.client()).template_id != built.template_id
    assert [each["names"] for each in server.http("GET", "/templates").json()] == [["second"], ["first"]]
    assert server.http("DELETE", f"/templates/{built.template_id}").status_code == 204
    assert not Template.exists("first", **server.client())
    with Sandbox.create("second", **server.client()) as box, box.fork()[0] as copy:
        assert copy.commands.run("pwd").stdout == f"{place}/work\n"
    assert server.http("DELETE", "/templates/second").status_code == 204
    assert server.http("DELETE", "/templates/second").status_code == 404


COPIED = """\
one.txt
one.txt
two.txt
.dot.txt
tree/.hidden
tree/deep/run.sh
a b
640
.dot.txt
a b
folder
one.txt
renamed
tree
two.txt
"""


def test_files(server: Server, place: str, tmp_path: Path) -> None:
    context = tmp_path / "context"
    (context / "tree" / "deep").mkdir(parents=True)
    for name in ("one.txt", "two.txt", ".dot.txt", "tree/.hidden", "tree/deep/run.sh", "a b"):
        (context / name).write_text(f"{name}\n")
    (context / "tree" / "link").symlink_to("deep/run.sh")
    steps = Template(file_context_path=context).from_template("base").set_workdir(f"{place}/out")
    steps = steps.copy("one.txt", "renamed", mode=0o640).copy("one.txt", "folder/").copy("*.txt", ".")
    steps = steps.copy("tree", "tree").copy("a b", f"{place}/out/", gzip=False)
    steps.run_cmd(
        "cat renamed folder/one.txt two.txt .dot.txt tree/.hidden tree/link 'a b'; stat -c %a renamed; LC_ALL=C ls -A"
    )
    entries: list[str] = []
    for _ in range(2):
        Template.build(steps, "files", on_build_logs=lambda each: entries.append(each.message), **server.client())
    assert "\n".join(entries).count(COPIED) == 2
    assert [each[:14] for each in entries if "tree'" in each] == ["Uploaded 'tree", "Skipping uploa"]
    assert {each.name for each in (tmp_path / "out").iterdir()} == {*COPIED.splitlines()[-7:]}


def _upload(server: Server, content: bytes) -> dict[str, Any]:
    """The end of a build that copies what is uploaded."""
    made = server.http("POST", "/v3/templates", json={"name": "files"}).json()
    files = hashlib.sha256(content).hexdigest()
    path = f"/templates/{made['templateID']}/files/{files}"
    assert server.http("GET", path, "e2b_1").status_code == 404
    url = server.http("GET", path).json()["url"]
    assert httpx.put(url.replace("signature=", "signature=0"), content=content).status_code == 403
    assert httpx.put(url, content=b"").status_code == 400
    assert httpx.put(url, content=content).status_code == 200
    path = f"/v2/templates/{made['templateID']}/builds/{made['buildID']}"
    steps = [{"type": "COPY", "args": ["x", "/none/x", "", ""], "filesHash": files}]
    assert server.http("POST", path, "e2b_1", json={"fromTemplate": "base"}).status_code == 404
    assert server.http("POST", path, json={"fromTemplate": "base", "steps": steps}).status_code == 202
    assert server.http("POST", path, json={"fromTemplate": "base"}).status_code == 409
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.update(server.http("GET", f"{path.removeprefix('/v2')}/status").json())
        return bool(found["status"] != "building")

    eventually(ended, "the build does not end")
    return found


def test_archives_that_are_none(server: Server) -> None:
    for content in (b"no archive" * 100_000, gzip.compress(b"no archive")):
        found = _upload(server, content)
        assert (found["status"], found["reason"]["step"]) == ("error", "1"), found
        assert found["reason"]["message"].startswith("failed to run 'COPY x /none/x': exit status ")
        assert found["reason"]["logEntries"][-1]["message"] == found["reason"]["message"]


def test_start_and_ready_commands(server: Server, place: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    steps = Template().from_template("base").set_workdir(place).set_envs({"NAME": "log"}).run_cmd("echo built > $NAME")
    serve = f"echo $$ >> $NAME; exec python3 -m http.server {port} --bind 127.0.0.1"
    asyncio.run(AsyncTemplate.build(steps.set_start_cmd(serve, wait_for_port(port)), "web", **server.client()))
    with Sandbox.create("web", **server.client()) as box:
        first, started = box.files.read("log").split()  # nothing has started it again
        found = box.commands.run(f"tr '\\0' ' ' < /proc/{started}/cmdline; kill {started}").stdout
        assert (first, found) == ("built", f"python3 -m http.server {port} --bind 127.0.0.1 ")


def test_what_fails(server: Server, place: str) -> None:
    base = Template().from_template("base")
    with pytest.raises(BuildException, match="failed to run 'echo why >&2; exit 3': exit status 3: why"):
        Template.build(
            base.set_workdir(place).run_cmd("echo why >&2; exit 3").run_cmd("true"), "fails", **server.client()
        )
    assert not Template.exists("fails", **server.client())
    for steps, words in (
        (Template().from_template("none"), "template 'none' does not exist"),
        (Template().from_python_image("3.99"), "image 'python:3.99' is not on this server"),
        (Template().from_template("base").set_user("nobody-has-this-name"), "invalid user: 'nobody-has-this-name'"),
        (Template().from_template("base").run_cmd("true", user="also-none"), "invalid user: 'also-none'"),
    ):
        with pytest.raises(BuildException, match=words):
            Template.build(steps, "fails", **server.client())
    info = Template.build_in_background(Template().from_base_image().run_cmd("exit 4"), "fails", **server.client())
    eventually(lambda: Template.get_build_status(info, **server.client()).status == "error", "it does not fail")
    found = Template.get_build_status(info, **server.client())
    assert found.reason and (found.reason.step, found.log_entries[0].message) == ("1", "starting from e2bdev/base")
    assert Template.get_build_status(info, 1, **server.client()).log_entries == found.log_entries[1:]
    assert found.reason.log_entries[-1].level == "error"
    with pytest.raises(BuildException, match="404"):
        Template.get_build_status(info, **server.client("e2b_1"))


def test_an_image_of_the_store(server: Server, place: str) -> None:
    (server.place / "images of templates" / "etc").mkdir(parents=True)
    ImageStore(str(server.place / "images")).add(str(server.place / "images of templates"), "python:3")
    steps = Template().from_python_image().run_cmd(f"echo 1 > {place}/f")
    for memory, found in ((64, 64), (1 << 20, 512)):  # the server's limit
        Template.build(steps, "own", memory_mb=memory, **server.client())
        with Sandbox.create("own", **server.client()) as box:
            assert box.commands.run(f"cat {place}/f").stdout == "1\n"
            assert box.get_info().memory_mb == found
    dockerfile = f"FROM python:3\nENV A=b\nWORKDIR {place}/docker\nRUN echo $A > $(id -un)\nUSER root\n"
    Template.build(Template().from_dockerfile(dockerfile), "own", **server.client())
    with Sandbox.create("own", **server.client()) as box:
        assert box.commands.run("cat root; echo $USER").stdout == "b\nroot\n"


def test_tags(server: Server, place: str) -> None:
    def build(name: str, *tags: str) -> str:
        steps = Template().from_template("base").set_workdir(place).set_envs({"NAME": name})
        return Template.build(steps, name, tags=[*tags], **server.client()).build_id

    first, second = build("tagged:v1", "stable"), build("tagged:v2")
    assert Template.assign_tags("tagged:v2", "default", **server.client()).build_id == second
    found = {each.tag: each.build_id for each in Template.get_tags("tagged", **server.client())}
    assert found == {"v1": first, "stable": first, "v2": second, "default": second}
    for name, value in (("tagged:stable", "tagged:v1"), ("tagged", "tagged:v2")):
        with Sandbox.create(name, **server.client()) as box:
            assert box.commands.run("echo $NAME").stdout == f"{value}\n"
    Template.remove_tags("tagged", ["v1", "stable"], **server.client())
    folders = server.place / "server" / "snapshots"
    assert not (folders / first).exists() and (folders / second).exists()
    with pytest.raises(TemplateException, match="404"):
        Template.assign_tags("tagged:v1", "again", **server.client())


def _reason(server: Server, info: Any) -> str:
    reason = Template.get_build_status(info, **server.client()).reason
    return "" if reason is None else reason.message


def test_a_server_that_ends_in_a_build(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    slow = (
        Template().from_template("base").run_cmd(f"echo $$ > {begun}.new; mv {begun}.new {begun}; exec sleep 600.875")
    )
    with running(tmp_path) as server:
        for number in (signal.SIGKILL, signal.SIGTERM):
            info = Template.build_in_background(slow, "slow", **server.client())
            eventually(begun.exists, "the build does not begin")
            assert not list(Sandbox.list(**server.client()).next_items())
            server.stop(number)
            if number == signal.SIGKILL:  # nothing ends the fake machine's commands
                os.kill(int(begun.read_text()), signal.SIGKILL)
            else:
                assert server.machines == set()
            begun.unlink()
            server.start()
            assert _reason(server, info) in ("the server ended during the build", "the build was cancelled")
            eventually(lambda: server.machines == set(), "the sandbox of the build is left")
        info = Template.build_in_background(slow, "slow", **server.client())
        eventually(lambda: server.machines != set(), "the build does not begin")
        assert server.http("DELETE", f"/templates/{info.template_id}").status_code == 204
        assert server.machines == set() and _reason(server, info)
        assert not Template.exists("slow", **server.client())


def test_records_of_an_older_server(tmp_path: Path) -> None:
    Store(str(tmp_path)).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "server.db")) as older:
        for table, name in itertools.product(("sandboxes", "snapshots"), ("user", "workdir")):
            older.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
    for _ in range(2):
        newer = Store(str(tmp_path))
        newer.add(Record("id", "owner", "base", "running", "token", 0, None))
        found = newer.get("id")
        assert found and (found.user, found.workdir) == ("", "")
        newer.remove(found)
        newer.close()


def test_limits(tmp_path: Path) -> None:
    with running(tmp_path, "--max-sandboxes", "1", "--max-build", "0.3", "--max-upload", "1") as server:
        for _ in range(2):
            Template.build(Template().from_template("base"), "only", **server.client())
        with pytest.raises(SandboxException, match=r"429: .*this key has 1 tags of templates, its limit"):
            Template.build(Template().from_template("base"), "other", **server.client())
        assert server.http("POST", "/v3/templates", "e2b_1", json={"name": "other"}).status_code == 202
        for steps in (
            Template().from_template("base").run_cmd("sleep 600"),
            Template().from_template("base").set_ready_cmd("false"),
        ):
            with pytest.raises(BuildException, match="the time of the build is over"):
                Template.build(steps, "only", **server.client())
        with Sandbox.create("only", **server.client()):
            with pytest.raises(BuildException, match="this key has 1 sandboxes, its limit"):
                Template.build(Template().from_template("base"), "only", **server.client())
        made = server.http("POST", "/v3/templates", json={"name": "only"}).json()
        url = server.http("GET", f"/templates/{made['templateID']}/files/{'0' * 64}").json()["url"]
        assert httpx.put(url, content=bytes(2 << 20)).status_code == 413
        assert not list((tmp_path / "server" / "uploads").iterdir())
        assert server.http("POST", "/v3/templates", json={"name": "only"}).status_code == 429


def test_a_root_file_system_is_a_template_of_the_administrators(tmp_path: Path) -> None:
    """Like an image: machines start from it, not from saved memory."""
    place = tmp_path / "server"
    (tmp_path / "plain" / "bin").mkdir(parents=True)
    place.mkdir()
    with running(place, "--template", f"plain={tmp_path}/plain") as server:
        with Sandbox.create("plain", **server.client()) as box:
            assert box.commands.run("echo from the folder").stdout == "from the folder\n"


def test_a_template_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--template", f"x={tmp_path}/missing", "--state", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert f"there is no {tmp_path}/missing" in printed and "hint: name an image, or a folder" in printed
