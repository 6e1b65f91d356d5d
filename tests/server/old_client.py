"""What a client of any version in the matrix does: ``old_client.py FOLDER``, where FOLDER is the sandbox's to use."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import e2b


def use(sandbox: Any, folder: str) -> None:
    box = sandbox.create(timeout=60, metadata={"of": "old"}, envs={"FROM": "old"})
    parts: list[str] = []
    done = box.commands.run("echo $FROM; echo err >&2", on_stdout=parts.append)
    assert (done.stdout, done.stderr, done.exit_code, "".join(parts)) == ("old\n", "err\n", 0, "old\n")
    assert status_of(box, "exit 3") == 3
    command = box.commands.run("read a; echo got $a", background=True, stdin=True)
    box.commands.send_stdin(command.pid, "one\n")
    assert command.wait().stdout == "got one\n"
    command = box.commands.run("exec sleep 600", background=True)
    assert [each.pid for each in box.commands.list()] == [command.pid]
    assert command.kill()
    files(box, folder)
    terminal(box)
    control(sandbox, box)
    assert box.kill() and not box.is_running()


def status_of(box: Any, command: str) -> int:
    try:
        return int(box.commands.run(command).exit_code)
    except e2b.CommandExitException as error:
        return error.exit_code


def files(box: Any, folder: str) -> None:
    watch = box.files.watch_dir(folder)
    box.files.write(f"{folder}/a", "text")
    box.files.write_files([{"path": f"{folder}/b", "data": b"1"}, {"path": f"{folder}/c", "data": b"2"}])
    assert box.files.read(f"{folder}/a") == "text" and bytes(box.files.read(f"{folder}/b", format="bytes")) == b"1"
    assert sorted(each.name for each in box.files.list(folder)) == ["a", "b", "c"]
    box.files.rename(f"{folder}/a", f"{folder}/d")
    assert box.files.exists(f"{folder}/d") and not box.files.exists(f"{folder}/a")
    assert box.files.make_dir(f"{folder}/e") and not box.files.make_dir(f"{folder}/e")
    box.files.remove(f"{folder}/e")
    try:
        box.files.read(f"{folder}/none")
    except e2b.NotFoundException:
        pass
    else:
        raise AssertionError("a file that is missing is read")
    seen: list[str] = []
    deadline = time.monotonic() + 60
    while "d" not in seen:
        seen += [each.name for each in watch.get_new_events()]
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)  # the client fetches the changes
    watch.stop()


def terminal(box: Any) -> None:
    pty = box.pty.create(e2b.PtySize(rows=24, cols=80))
    box.pty.send_stdin(pty.pid, b"echo in a $((40 + 2)); exit\n")
    output = bytearray()
    pty.wait(on_pty=output.extend)
    assert b"in a 42" in output


def control(sandbox: Any, box: Any) -> None:
    assert box.is_running() and box.get_info().metadata == {"of": "old"}
    box.set_timeout(120)
    found = sandbox.list(query=e2b.SandboxQuery(metadata={"of": "old"}), limit=10).next_items()
    assert [each.sandbox_id for each in found] == [box.sandbox_id]
    (box.pause if hasattr(box, "pause") else box.beta_pause)()
    assert box.get_info().state == e2b.SandboxState.PAUSED
    again = sandbox.connect(box.sandbox_id, timeout=60)
    assert again.commands.run("echo on").stdout == "on\n"


def template(sandbox: Any, folder: str) -> None:
    steps = e2b.Template().from_template("base").set_workdir(folder).run_cmd("echo built > built")
    e2b.Template.build(steps.copy("old_client.py", "copied"), alias="old")
    box = sandbox.create("old", timeout=60)
    assert box.commands.run("cat built; test -s copied").stdout == "built\n"
    box.kill()


async def use_async() -> None:
    box = await e2b.AsyncSandbox.create(timeout=60)
    results = await asyncio.gather(*(box.commands.run(f"echo {n}") for n in range(5)))
    assert [each.stdout for each in results] == [f"{n}\n" for n in range(5)]
    await box.kill()


def use_code() -> None:
    from e2b_code_interpreter import Sandbox

    box = Sandbox.create(timeout=60)
    assert box.run_code("6 * 7").text == "42"
    box.kill()


use(e2b.Sandbox, sys.argv[1])
template(e2b.Sandbox, sys.argv[1])
if "code" in sys.argv[2:]:
    use_code()
asyncio.run(use_async())
