"""``Sandbox.run_code`` with a real Jupyter kernel; fake machines run their programs on this host."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kata.oci_runtime import needs_namespaces
from tests.sandbox.test_sandbox import Python, place, python

__all__ = ["place", "python"]


@pytest.fixture
def kernels() -> Iterator[str]:
    """The first lines of a test program; its kernels are killed after the test, as a real machine's end with it."""
    with tempfile.TemporaryDirectory() as place:  # the paths of sockets are limited to 107 bytes
        yield f"""
    where["env"] = {{"PATH": os.path.dirname(sys.executable) + ":" + os.environ["PATH"], "TMPDIR": {place!r}}}
    """
        _end_programs_of(place)


def _end_programs_of(place: str) -> None:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={place}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            pass  # the process has ended


@needs_namespaces
def test_code_keeps_its_state_and_shows_results(python: Python, kernels: str) -> None:
    code = """
    with Sandbox(rootfs, **where) as box:
        assert box.contexts.list() == []
        assert box.run_code("x = 6") == Execution(count=1)
        assert box.run_code("x * 7").text == "42"
        seen = []
        done = box.run_code(
            "import sys; print('out'); print('err', file=sys.stderr)\\n"
            "from IPython.display import *; display(HTML('<b>'), Image(data=b'PNG', format='png'))\\n"
            "JSON({'a': [1]})",
            on_stdout=seen.append, on_stderr=seen.append, on_result=seen.append,
        )
        assert (done.stdout, done.stderr, done.error, done.count) == ("out\\n", "err\\n", None, 3)
        html, image, json = done.results
        assert html.html == "<b>" and image.png == b"PNG" and json.json == {"a": [1]}
        assert json.is_main and not html.is_main
        assert sorted(map(str, seen)) == sorted(map(str, ["out\\n", "err\\n", *done.results]))
        failed = box.run_code("print('before'); 1 / 0")
        assert failed.stdout == "before\\n" and failed.error[:2] == ("ZeroDivisionError", "division by zero")
        assert "ZeroDivisionError" in failed.error.traceback
        big = box.run_code("print('x' * 3_000_000)", max_output=1000)
        assert big.truncated and big.stdout == "x" * 1000
        # Other contexts have their own state
        other = box.contexts.create(cwd="/", env={"A": "of the context"})
        assert box.run_code("import os; os.getcwd(), os.environ['A']", context=other).text == "('/', 'of the context')"
        assert box.run_code("x", context=other.id).error.name == "NameError" and box.run_code("x").text == "6"
        assert box.contexts.list() == [Context("default", ""), other]
        box.contexts.restart(), box.contexts.remove(other)
        assert box.run_code("x").error.name == "NameError" and len(box.contexts.list()) == 1
        for call in (box.contexts.restart, box.contexts.remove, lambda it: box.run_code("1", context=it)):
            assert raises(UsageError, call, other).hint
    raises(SandboxGone, box.run_code, "1")
    """
    python(kernels + code)


@needs_namespaces
def test_code_that_does_not_end_and_kernels_that_do(python: Python, kernels: str) -> None:
    code = """
    with Sandbox(rootfs, **where) as box:
        box.run_code("x = 1")
        error = raises(CodeTimeout, box.run_code, "print('begun'); import time; time.sleep(600)", timeout=2)
        assert error.result.stdout == "begun\\n" and isinstance(error, TimeoutError)
        assert box.run_code("x").text == "1"  # the kernel was interrupted, not restarted
        deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
        raises(CodeTimeout, box.run_code, deaf, timeout=0.5)
        assert box.run_code("x").error.name == "NameError"  # the kernel was restarted
        died = box.run_code("import os; os._exit(3)")
        assert died.error.name == "KernelDied"
        assert box.run_code("x").error.name == "NameError"
        async def main():
            twin = AsyncSandbox(box)
            mine = await twin.contexts.create()
            assert mine in await twin.contexts.list()
            seen = []
            results = await asyncio.gather(*(twin.run_code(f"print({n}); {n}", context=c, on_stdout=seen.append)
                                             for n, c in ((1, mine), (2, None))))
            await twin.run_code("import time")
            assert [each.text for each in results] == ["1", "2"] and sorted(seen) == ["1\\n", "2\\n"]
            running = asyncio.create_task(twin.run_code("print('begun'); time.sleep(600)", on_stdout=seen.append))
            while seen[-1] != "begun\\n":
                await asyncio.sleep(0.01)  # it reports nothing else
            running.cancel()
            try:
                await running
            except asyncio.CancelledError:
                pass
            assert (await twin.run_code("2 + 3")).text == "5"
            await twin.contexts.restart(mine), await twin.contexts.remove(mine)
        asyncio.run(main())
    with Sandbox(rootfs, **{**where, "env": {"PATH": "/nowhere"}}) as box:
        assert "python3" in str(raises(UsageError, box.run_code, "1"))
    with Sandbox(rootfs, **{**where, "env": {"PATH": place + "/bin:" + os.environ["PATH"]}}) as box:
        os.mkdir(place + "/bin")
        box.files.write(place + "/bin/python3", f"#!/bin/sh\\nexec {sys.executable} -S \\"$@\\"", mode=0o755)
        assert raises(UsageError, box.run_code, "1").hint == "pip install ipykernel"  # -S: it finds no packages
    """
    python(kernels + code)


LIES = [
    (b"", 1),
    (b"no JSON\n", 1),
    (b"[]\n", 1),
    (b"[" * 100_000 + b"\n", 1),
    (b'{"failed": 7}\n', 1),
    (b'{"stdout": "x"}\n', 1),
    (b"x" * (1 << 20), 1 << 10),
]


@needs_namespaces
def test_a_sandbox_that_lies_about_its_code_is_an_error(python: Python, place: Path) -> None:
    odd = b'{"stdout": 1, "result": 2, "error": {"name": []}, "main": 3}\n{"done": "x"}\n'
    (place / "lies").write_text(repr([*LIES, (odd, 1), (b'{"contexts": [1]}\n', 1)]))
    code = f"""
    from pyvmm_sandbox.code import PORT
    with Sandbox(rootfs, **where) as box:
        server = os.path.dirname(upper_server) + "/lying_server.py"
        with box.popen([sys.executable, server, str(PORT), place + "/lies"]) as command:
            assert next(iter(command)).text == "ready\\n"
            for _ in range({len(LIES)}):
                raises(SandboxError, box.run_code, "1")
            done = box.run_code("1")
            assert (done.stdout, done.results, done.count) == ("1", (), 0) and done.error == CodeError("[]", "", "")
            raises(SandboxError, box.contexts.list)
    """
    python(code)
