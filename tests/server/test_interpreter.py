"""E2B's code interpreter client, unmodified, with a kernel of this host."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from e2b import NotFoundException, SandboxException
from e2b_code_interpreter import Sandbox

from tests.kata.oci_runtime import needs_namespaces
from tests.server.conftest import Server

pytestmark = needs_namespaces


@pytest.fixture
def box(server: Server) -> Iterator[Sandbox]:
    with Sandbox.create(envs={"FROM": "the sandbox"}, **server.client()) as made:
        yield made


def test_code_keeps_its_state(box: Sandbox, server: Server) -> None:
    assert box.run_code("x = 6").results == []
    seen: list[str] = []
    code = "import os, sys; print(os.environ['FROM']); print('err', file=sys.stderr); x * 7"
    done = box.run_code(
        code,
        on_stdout=lambda message: seen.append(message.line),
        on_stderr=lambda message: seen.append(message.line),
        on_result=lambda result: seen.append(str(result.text)),
    )
    assert (done.text, done.execution_count, done.error) == ("42", 2, None)
    assert ("".join(done.logs.stdout), "".join(done.logs.stderr)) == ("the sandbox\n", "err\n")
    assert sorted(seen) == ["42", "err\n", "the sandbox\n"]
    assert box.run_code("os.getcwd()").text == repr(f"{server.place}/home")
    shown = box.run_code("from IPython.display import *; display(HTML('<b>')); JSON({'a': [1]})").results
    assert (shown[0].html, shown[1].json, shown[1].is_main_result) == ("<b>", {"a": [1]}, True)
    failed = box.run_code("1 / 0").error
    assert failed is not None and (failed.name, failed.value) == ("ZeroDivisionError", "division by zero")

    other = box.create_code_context(cwd="/")
    assert other.cwd == "/" and other.id in [each.id for each in box.list_code_contexts()]
    assert box.run_code("import os; os.getcwd()", context=other).text == "'/'"
    unknown = box.run_code("x", context=other).error
    assert unknown is not None and unknown.name == "NameError"
    box.run_code("y = 1", context=other)
    box.restart_code_context(other)
    forgotten = box.run_code("y", context=other).error
    assert forgotten is not None and forgotten.name == "NameError"
    box.remove_code_context(other)
    with pytest.raises(NotFoundException):
        box.run_code("1", context=other)
    with pytest.raises(SandboxException, match="501"):
        box.run_code("1", language="r")
    answer = httpx.get(
        f"{server.url}/contexts",
        headers={"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": "49999", "X-Access-Token": "wrong"},
    )
    assert answer.status_code == 401
