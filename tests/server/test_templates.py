"""Templates that E2B's own client builds, with fake machines: their commands run here, in folders of the tests."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import AsyncTemplate, BuildException, Sandbox, SandboxException, Template, TemplateException, wait_for_port

from pyvmm_kata.image_store.store import ImageStore
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
    for name in ("first", "first:default", built.template_id):
        with Sandbox.create(name, **server.client()) as box:
            assert box.commands.run("cat made; echo $COLOR").stdout == f"a b1\n{place}/work\na b\n"
            assert box.files.read("made").startswith("a b1\n")
    with pytest.raises(SandboxException, match="404"):
        Sandbox.create("first", **server.client("e2b_1"))
    second = Template().from_template("first").run_cmd("test \"$COLOR$N\" = 'a b1' && cat made")
    assert Template.build(second, "second", **server.client()).template_id != built.template_id
    assert [each["names"] for each in server.http("GET", "/templates").json()] == [["second"], ["first"]]
    assert server.http("DELETE", f"/templates/{built.template_id}").status_code == 204
    assert not Template.exists("first", **server.client())
    with Sandbox.create("second", **server.client()) as box, box.fork()[0] as copy:  # type: ignore[union-attr]
        assert copy.commands.run("pwd").stdout == f"{place}/work\n"
    assert server.http("DELETE", "/templates/second").status_code == 204
    assert server.http("DELETE", "/templates/second").status_code == 404
