"""Pools of sandboxes, with machines that run their programs here: what waits, what is dropped, and what is left."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path

from tests.kata.oci_runtime import eventually, needs_namespaces
from tests.sandbox.test_images import IMAGE
from tests.sandbox.test_sandbox import Python, place, python, start

__all__ = ["place", "python"]

BEGIN = """
import faulthandler, threading
faulthandler.dump_traceback_later(60, exit=True)  # a test that waits for ever reports where
def until(condition):
    while not condition():
        assert not pool._error, repr(pool._error)
        time.sleep(0.01)
"""


@needs_namespaces
def test_a_pool_is_refilled(python: Python) -> None:
    code = """
    with SandboxPool(rootfs, size=2, timeout=600, metadata={"job": "7"}, **where) as pool:
        until(lambda: pool.ready == 2)
        assert all(each.expires is None for each in Sandbox.list(root=where["root"]))
        taken = [pool.take() for _ in range(3)]
        assert len({each.name for each in taken}) == 3
        for box in taken:
            assert box.run("echo taken").stdout == "taken\\n"
            assert box.info().metadata == {"job": "7"} and box.info().expires > time.time() + 500
        until(lambda: pool.ready == 2)
        died = pool._ready[0].box
        died.kill()  # as if its machine had
        assert died.name not in (pool.take().name, pool.take().name)
        for box in taken:
            box.kill()
    raises(UsageError, pool.take)
    pool.close()
    raises(UsageError, SandboxPool, rootfs, size=0)
    raises(UsageError, SandboxPool, rootfs, name="mine", detach=True)
    """
    python(BEGIN + textwrap.dedent(code))


@needs_namespaces
def test_a_failed_start_is_an_error_of_take(python: Python) -> None:
    code = """
    starts = []
    count = threading.Event()
    from pyvmm_sandbox import pool as pools
    made = pools.Sandbox
    class Counted(made):
        def __init__(self, *args, **options):
            starts.append(threading.active_count())
            super().__init__(*args, **options)
    pools.Sandbox = Counted
    with SandboxPool(place + "/later", size=3, starting=1, **where) as pool:
        error = raises(SandboxError, pool.take)
        assert "later" in str(error) and isinstance(error.__cause__, VmmError) and error.hint == error.__cause__.hint
        pool._changed.acquire(), pool._changed.wait_for(lambda: pool._error), pool._changed.release()
        tries = len(starts)
        assert tries <= 2  # it does not try on and on: the next caller sees the next error
        os.mkdir(place + "/later")
        raises(SandboxError, pool.take)
        assert pool.take().run("echo ready").stdout == "ready\\n"
    begins = threading.Event()
    class Held(made):
        def __init__(self, *args, **options):
            begins.wait()
            super().__init__(*args, **options)
    with SandboxPool(rootfs, size=1, **where) as pool:
        until(lambda: pool.ready == 1)
        pools.Sandbox = Held
        pool.take()
        raises(TimeoutError, pool.take, timeout=0)
        begins.set()
        template = pool.take().snapshot(place + "/t")
    with SandboxPool(template, size=1, **where) as pool:
        until(lambda: pool.ready == 1)
        os.rename(place + "/t", place + "/gone")
        raises(UsageError, pool.take)
    """
    python("from vmm import VmmError" + BEGIN + textwrap.dedent(code))


@needs_namespaces
def test_sandboxes_of_another_image_are_dropped(python: Python) -> None:
    code = """
    from pyvmm_sandbox import image_version
    image_version.ImageStore = lambda: store
    made = Template.build(place + "/t", place + "/current", setup=[f"echo set up >>{files}/log"], **where)
    with SandboxPool(made, size=1, **where) as pool:
        until(lambda: pool.ready == 1)
        old = pool.take()
        until(lambda: pool.ready == 1)
        waits = pool._ready[0].box
        # The template is replaced
        Template(place + "/t").rebuild()
        assert pool.take().name != waits.name and not waits.is_running
        until(lambda: pool.ready == 1)
        waits = pool._ready[0].box
        # Its image is another: it is built once more, and its sandboxes with it
        open(place + "/tree/file", "w").write("2")
        os.unlink(place + "/current")
        os.symlink(store.add(place + "/tree", "other").path, place + "/current")
        assert not Template(place + "/t").is_current
        assert pool.take().name != waits.name and not waits.is_running
        assert Template(place + "/t").is_current and open(files + "/log").read() == "set up\\n" * 3
        assert old.run("echo still there").ok
    raises(UsageError, old.snapshot(place + "/s").rebuild)
    """
    begin = IMAGE + "os.symlink(image, place + '/current')" + BEGIN
    python(begin + textwrap.dedent(code))


@needs_namespaces
def test_the_async_pool(python: Python) -> None:
    code = """
    async def main():
        async with AsyncSandboxPool(rootfs, size=2, starting=2, **where) as pool:
            boxes = await asyncio.gather(*(pool.take() for _ in range(4)))
            outputs = await asyncio.gather(*(box.run(f"echo {n}") for n, box in enumerate(boxes)))
            assert [each.stdout for each in outputs] == ["0\\n", "1\\n", "2\\n", "3\\n"]
            await asyncio.gather(*(box.kill() for box in boxes))
    asyncio.run(main())
    public = lambda kind: {name for name in vars(kind) if not name.startswith("_")}
    assert public(SandboxPool) == public(AsyncSandboxPool)
    """
    python(BEGIN + textwrap.dedent(code))


@needs_namespaces
def test_a_killed_owner_of_a_pool_leaves_nothing(place: Path) -> None:
    code = """
    pool = SandboxPool(rootfs, size=3, starting=2, **where)
    box = pool.take()
    until(lambda: pool.ready == 3)
    print("ready", flush=True)
    time.sleep(600)
    """
    with start(place, BEGIN + textwrap.dedent(code)) as process:
        assert process.stdout is not None and process.stderr is not None
        line, there = process.stdout.readline(), list((place / "state").glob("box-*"))
        process.send_signal(signal.SIGKILL)
        assert line == "ready\n", process.stderr.read()
        assert len(there) == 4
    eventually(lambda: os.listdir(place / "state") == [], "sandboxes are left")
