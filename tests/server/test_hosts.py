"""Names under which clients and pages reach the server: DNS rebinding, where any key is accepted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2b import Sandbox

from pyvmm_server.errors import ClientError
from pyvmm_server.hosts import Hosts
from pyvmm_server.settings import Settings, hash_of
from tests.kata.oci_runtime import needs_namespaces
from tests.server.conftest import Server, running

pytestmark = needs_namespaces
LIST, PAGE, FIGURES = "/v2/sandboxes", "/", "/metrics"


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with names of its own."""
    folder = tmp_path_factory.mktemp("named")
    with running(folder, "--domain", "boxes.example:8443", "--allow-host", "build-host") as server:
        yield server


@pytest.mark.parametrize("path", [LIST, PAGE, FIGURES])
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "a b"])
def test_a_page_whose_name_leads_here_is_refused(server: Server, host: str, path: str) -> None:
    found = server.http("GET", path, headers={"Host": host})
    assert found.status_code == 421 and "--allow-host" in found.json()["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:3900", "[::1]:3900", "localhost.", "10.0.0.1"])
def test_loopback_names_and_addresses_are_the_servers(server: Server, host: str) -> None:
    assert server.http("GET", LIST, headers={"Host": host}).status_code == 200


def test_the_domain_and_names_of_the_administrator_are_the_servers(named: Server) -> None:
    for host in ("boxes.example", "api.boxes.example:8443", "Build-Host:80"):
        assert named.http("GET", LIST, headers={"Host": host}).status_code == 200
    for host in ("www.boxes.example", "evil.example"):
        assert named.http("GET", LIST, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "file://", "http://[", "http://8000-abc.localhost:3900"]
)
def test_pages_of_others_may_not_use_it(server: Server, origin: str) -> None:
    """A server in a sandbox has pages, too, under names of its own."""
    assert server.http("GET", LIST, headers={"Origin": origin}).status_code == 403


@pytest.mark.parametrize("origin", ["http://localhost:5173", "http://127.0.0.1", "http://[::1]:80"])
def test_pages_of_this_host_may_use_it(server: Server, origin: str) -> None:
    assert server.http("GET", LIST, headers={"Origin": origin}).status_code == 200


def test_a_sandbox_is_reached_under_its_own_name_and_not_by_another_page(server: Server) -> None:
    with Sandbox.create(**server.client()) as box:
        under_own = server.http("GET", "/", headers={"Host": f"1-{box.sandbox_id}.boxes.example"})
        assert under_own.status_code == 502 and "port 1 is closed" in under_own.text
        wanted = {"Host": "evil.example", "E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": "1"}
        assert server.http("GET", "/", headers=wanted).status_code == 421


def test_with_keys_any_name_is_right() -> None:
    Hosts(Settings("/none", keys=frozenset([hash_of("key")]))).check({"host": "anything", "origin": "null"})
    with pytest.raises(ClientError):
        Hosts(Settings("/none")).check({"host": "anything"})
