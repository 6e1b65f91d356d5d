"""Secrets and volumes by E2B's own client: what the server keeps, and what it refuses.

What they do for a sandbox is in test_vault_sentry.py: these machines have the host's files and no network rules.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from e2b import AsyncSecret, Sandbox, Secret, Volume
from e2b.exceptions import SandboxException, SecretException, SecretNotFoundException, VolumeException

from pyvmm_kata.image_store.store import ImageStore
from pyvmm_server.database import Sqlite
from pyvmm_server.errors import ClientError
from pyvmm_server.secret_calls import of_rules
from pyvmm_server.vault import SCHEMA, Vault, remove_files
from tests.kata.oci_runtime import eventually, needs_namespaces
from tests.server.conftest import Server

pytestmark = needs_namespaces


@pytest.fixture(scope="module")
def tiny(server: Server) -> str:
    """An image: its machines are new ones."""
    (server.place / "few").mkdir()
    ImageStore(str(server.place / "images")).add(str(server.place / "few"), "few:1")
    return "few:1"


def _key(server: Server, key: str = "e2b_0") -> dict[str, Any]:
    return {"api_key": key, "api_url": server.url}


def test_secrets_are_kept_and_never_shown(server: Server) -> None:
    key = _key(server)
    made = Secret.create("openai", "sk-first-value", {"team": "a"}, **key)
    assert (made.name, made.version, made.metadata) == ("openai", 1, {"team": "a"})
    changed = Secret.update("openai", "sk-second-value", **key)
    assert (changed.secret_id, changed.version, changed.metadata) == (made.secret_id, 2, {"team": "a"})
    assert changed.updated_at >= made.updated_at and changed.created_at == made.created_at
    others = [Secret.create(f"other {number}", "x", **key).name for number in range(3)]
    pages = Secret.list(limit=3, **key)
    found = []
    while pages.has_next:
        found += [each.name for each in pages.next_items()]
    assert found == [*reversed(others), "openai"]
    assert "sk-" not in server.http("GET", "/secrets").text + server.http("GET", f"/secrets/{made.secret_id}").text
    assert asyncio.run(AsyncSecret.get_info(made.secret_id, **key)) == changed
    with pytest.raises(SecretException, match="409"):
        Secret.create("openai", "again", **key)
    for name in ("openai", *others):
        assert Secret.destroy(name, **key) and not Secret.exists(name, **key)
    assert not Secret.destroy("openai", **key)
    with pytest.raises(SecretNotFoundException):
        Secret.update("openai", "x", **key)


def test_secrets_are_those_of_a_key(server: Server) -> None:
    mine, other = _key(server), _key(server, "e2b_1")
    made = Secret.create("mine", "value", **mine)
    assert not Secret.exists("mine", **other) and not Secret.destroy(made.secret_id, **other)
    assert Secret.list(**other).next_items() == []
    assert Secret.create("mine", "another value", **other).secret_id != made.secret_id
    assert Secret.destroy("mine", **mine) and Secret.destroy("mine", **other)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "a"},
        {"name": "", "value": "x"},
        {"name": "a{b", "value": "x"},
        {"name": "a\nb", "value": "x"},
        {"name": "n" * 129, "value": "x"},
        {"name": "a", "value": ""},
        {"name": "a", "value": "two\r\nHost: lines"},
        {"name": "a", "value": "x" * 20_000},
        {"name": "a", "value": "x", "metadata": {"a": 1}},
        {"name": "a", "value": "x", "metadata": {str(number): "" for number in range(33)}},
        {"name": "a", "value": "x", "metadata": {"a": "v" * 1025}},
    ],
)
def test_wrong_secrets_are_refused(server: Server, body: dict[str, Any]) -> None:
    found = server.http("POST", "/secrets", json=body)
    assert found.status_code == 400 and len(found.json()["message"]) < 300
    assert server.http("GET", "/secrets").json() == []


def test_a_destroyed_value_is_overwritten(tmp_path: Path) -> None:
    db = Sqlite(str(tmp_path))
    db.create(SCHEMA)
    vault = Vault(db, str(tmp_path / "volumes"))
    vault.remove_secret(vault.add_secret("someone", "a", "sk-0123456789", {}))
    db.close()
    assert b"sk-0123456789" not in (tmp_path / "server.db").read_bytes()


def test_headers_of_hosts_have_the_values_of_secrets() -> None:
    def found(headers: Any, host: str = "api.example.com") -> Any:
        return of_rules({"rules": {host: [{"transform": {"headers": headers}}]}}, {"key": "s3cret"}.get)

    (only,) = found({"Authorization": "Bearer ${e2b.secrets.key}"}).values()
    assert (only.value, tuple(only.hosts), only.header) == ("Bearer s3cret", ("api.example.com",), "Authorization")
    assert "s3cret" not in repr(only)
    for headers, host, words in (
        ({"A": "${e2b.secrets.none}"}, "a.example", "does not exist"),
        ({"A": "${e2b.identity.tokens.aws}"}, "a.example", "not available"),
        ({"Host": "x"}, "a.example", "no header"),
        ({"A": "x"}, "10.0.0.1", "of a secret"),
        ({"A": "x\r\nB: y"}, "a.example", "characters"),
        ({"A": 1}, "a.example", "not strings"),
    ):
        with pytest.raises(ClientError, match=words):
            found(headers, host)


def test_a_header_that_names_a_secret_often_is_not_filled() -> None:
    filled = []

    def value(name: str) -> str:
        filled.append(name)
        return "x" * 10_000

    headers = {"A": "${e2b.secrets.key}" * 50_000}
    with pytest.raises(ClientError, match="more than"):
        of_rules({"rules": {"a.example": [{"transform": {"headers": headers}}]}}, value)
    assert filled == []


def test_files_of_a_volume_are_removed_however_deep_they_are(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    place = os.open(tmp_path / "volume", os.O_RDONLY)
    for _ in range(1200):  # more than Python can go down, or has descriptors here
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
    try:
        remove_files(str(tmp_path / "volume"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not (tmp_path / "volume").exists()


def test_volumes_are_made_found_and_removed(server: Server) -> None:
    key = _key(server)
    made = Volume.create("data-1", **key)
    (server.place / "server" / "volumes" / made.volume_id / "file").write_text("kept")
    found = Volume.connect(made.volume_id, **key)
    assert (found.name, found.token) == ("data-1", made.token) and made.token
    assert [each.name for each in Volume.list(**key)] == ["data-1"]
    with pytest.raises(VolumeException, match="409"):
        Volume.create("data-1", **key)
    assert Volume.list(**_key(server, "e2b_1")) == [] and not Volume.destroy(made.volume_id, **_key(server, "e2b_1"))
    assert Volume.destroy(made.volume_id, **key) and not Volume.destroy(made.volume_id, **key)
    assert os.listdir(server.place / "server" / "volumes") == []


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "../a", "a b", "-a", "a\0b", "n" * 65, "é"])
def test_names_of_volumes_are_no_paths(server: Server, name: str) -> None:
    assert server.http("POST", "/volumes", json={"name": name}).status_code == 400
    assert Volume.list(**_key(server)) == []


def test_a_volume_that_a_sandbox_has_stays(server: Server, tiny: str) -> None:
    key = _key(server)
    volume = Volume.create("mounted", **key)
    box = Sandbox.create(tiny, volume_mounts={"/data": volume}, **server.client())
    assert box.get_info().volume_mounts == [{"name": "mounted", "path": "/data"}]
    for _ in range(2):
        with pytest.raises(VolumeException, match=f"409.*mounted in sandbox {box.sandbox_id}: kill it first"):
            Volume.destroy(volume.volume_id, **key)
        box.pause()
    for copy in (box.fork, box.create_snapshot):
        with pytest.raises(SandboxException):
            copy()
    box.connect()
    for copy in (box.fork, box.create_snapshot):
        with pytest.raises(SandboxException, match="501: a copy of a sandbox with volumes"):
            copy()
    box.kill()
    assert Volume.destroy(volume.volume_id, **key)


@pytest.mark.parametrize(
    "path",
    ["", "data", "/", "/a/../b", "/a//b", "//a", "/proc", "/proc/self", "/etc", "/.pyvmm/box", "/a:ro", "/a,b", "/a\n"],
)
def test_paths_of_volumes_are_checked(server: Server, tiny: str, path: str) -> None:
    volume = Volume.create("of-paths", **_key(server))
    try:
        body = {"templateID": tiny, "volumeMounts": [{"name": "of-paths", "path": path}]}
        assert server.http("POST", "/v2/sandboxes", json=body).status_code == 400
    finally:
        Volume.destroy(volume.volume_id, **_key(server))


def test_mounts_that_cannot_be_are_refused(server: Server, tiny: str) -> None:
    volume = Volume.create("few", **_key(server))
    with pytest.raises(SandboxException, match=r"404.*volume 'none' does not exist"):
        Sandbox.create(tiny, volume_mounts={"/data": "none"}, **server.client())
    for paths in (("/a", "/a/b"), ("/a/b", "/a"), ("/a", "/a/")):
        with pytest.raises(SandboxException, match=r"400.*twice, or below"):
            Sandbox.create(tiny, volume_mounts=dict.fromkeys(paths, "few"), **server.client())
    with pytest.raises(SandboxException, match=r"501.*saved with its memory"):
        Sandbox.create(volume_mounts={"/a": "few"}, **server.client())
    assert Volume.destroy(volume.volume_id, **_key(server))


def test_a_server_that_is_killed_keeps_volumes_and_ends_removals(own_server: Server) -> None:
    server = own_server
    kept, gone = (Volume.create(name, **_key(server)) for name in ("kept", "gone"))
    folder = server.place / "server" / "volumes"
    (folder / kept.volume_id / "file").write_text("data")
    (folder / ("0" * 20)).mkdir()  # its record is lost: it may be all that is left of somebody's data
    server.stop(signal.SIGKILL)
    (folder / gone.volume_id).rename(folder / f"deleted-{gone.volume_id}")  # as far as the server came
    server.start()
    assert [each.name for each in Volume.list(**_key(server))] == ["kept"]
    left = sorted([kept.volume_id, "0" * 20])
    eventually(lambda: sorted(os.listdir(folder)) == left, "the files of a removed volume stay")
    assert (folder / kept.volume_id / "file").read_text() == "data"
