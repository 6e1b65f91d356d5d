"""The description of the control interface, and requests that schemathesis makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from e2b import Sandbox
from openapi_spec_validator import OpenAPIV31SpecValidator

from pyvmm_server import openapi, routes
from tests.kata.oci_runtime import needs_namespaces
from tests.server.conftest import Server, running

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
CONFIG = """\
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "501"]
[headers]
X-API-Key = "e2b_0"
"""
"""501 is the answer where a feature is missing."""
SECONDS = float(os.environ.get("PYVMM_TEST_SCHEMA_SECONDS", "180"))
"""Of each part of a long run: 600 make an hour of the six parts of a server."""


def test_the_description_is_one_of_openapi() -> None:
    OpenAPIV31SpecValidator(openapi.document()).validate()


def test_each_route_has_a_description() -> None:
    described = {(method.upper(), path) for path, of in openapi.document()["paths"].items() for method in of}
    tables = {(method, path.replace(":path}", "}")) for method, path in routes.ROUTES}
    assert described >= tables == set(openapi.ABOUT)
    identities = [each["operationId"] for of in openapi.document()["paths"].values() for each in of.values()]
    assert len(identities) == len(set(identities))


def _try(server: Server, folder: Path, *options: str, config: str = CONFIG) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "schemathesis.toml").write_text(config)
    program = Path(sys.executable).with_name("schemathesis")
    command: list[str | Path] = [program, "run", f"{server.url}/openapi.json", "--checks", CHECKS, "--no-color"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert server.http("GET", "/health").status_code == 204


def _try_all(server: Server, folder: Path, *options: str) -> None:
    """Requests with any names, and requests to a sandbox that there is."""
    _try(server, folder, *options)
    server.kill_all()  # some of its own may have a long time
    box = Sandbox.create(timeout=3600, **server.client())
    known = f'[parameters]\n"path.sandbox" = {json.dumps(box.sandbox_id)}\n'
    others = ["--include-path-regex", "{sandbox}", "--exclude-method", "DELETE", "--exclude-path-regex"]
    _try(server, folder, *others, "timeout|fork|pause", *options, config=CONFIG + known)
    assert Sandbox.connect(box.sandbox_id, timeout=60, **server.client()).commands.run("echo on").stdout == "on\n"
    # A sandbox that goes on after a pause has the time that the request gives it, which can be short
    _try(server, folder, *others, "timeout|fork", *options, config=CONFIG + known)
    assert Sandbox.create(**server.client()).commands.run("echo on").stdout == "on\n"


@needs_namespaces
def test_requests_of_schemathesis(tmp_path: Path) -> None:
    place = tmp_path / "server"
    place.mkdir()
    with running(place, "--max-sandboxes", "3") as server:
        few = ["--include-path-regex", "^/(v2|v3|snapshots)", "--max-examples", "2", "--seed", "1"]
        _try(server, tmp_path, "--phases", "fuzzing", *few)
        found = json.loads(server.http("GET", "/openapi.json", key="").text)
        assert found == openapi.document()


@needs_namespaces
@pytest.mark.long  # 9 minutes
def test_many_requests_of_schemathesis(tmp_path: Path) -> None:
    place = tmp_path / "server"
    place.mkdir()
    with running(place, "--max-sandboxes", "3") as server:
        _try_all(server, tmp_path, "--max-time", f"{SECONDS:g}")
