"""Where the page's terminal comes from: an archive of npm, here of a registry of the test."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pyvmm_server.page import vendor


class Registry(ThreadingHTTPServer):
    """Serves one archive, and counts how often."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = b""
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Registry)
        self.server.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """A registry that is asked in the place of npm's, and an empty cache."""
    with Registry() as made:
        threading.Thread(target=made.serve_forever).start()
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{made.server_port}/")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield made
        made.shutdown()


def archive(text: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        entry = tarfile.TarInfo("package/lib/a.mjs")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    return made.getvalue()


def package(data: bytes) -> vendor.Package:
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    return vendor.Package("@some/thing", "1.2.3", integrity, {"lib/a.mjs": "a.mjs"})


def test_an_archive_is_fetched_once(registry: Registry) -> None:
    registry.data = archive(b"export {};")
    wanted = package(registry.data)
    assert [vendor.content(wanted, "lib/a.mjs") for _ in range(2)] == [b"export {};"] * 2
    assert registry.asked == ["/@some/thing/-/thing-1.2.3.tgz"]


def test_another_archive_than_the_chosen_one_is_refused(registry: Registry, tmp_path: Path) -> None:
    wanted = package(archive(b"export {};"))
    registry.data = archive(b"evil();")
    with pytest.raises(vendor.VendorError, match="is not what was chosen"):
        vendor.content(wanted, "lib/a.mjs")
    assert list(tmp_path.rglob("*.tgz")) == []


def test_a_damaged_cache_is_fetched_again(registry: Registry, tmp_path: Path) -> None:
    registry.data = archive(b"export {};")
    wanted = package(registry.data)
    vendor.fetched(wanted)
    (kept,) = tmp_path.rglob("*.tgz")
    kept.write_bytes(b"half of")
    assert vendor.fetched(wanted) == registry.data
    assert kept.read_bytes() == registry.data


def test_without_a_network_the_error_has_a_hint(
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:1")
    monkeypatch.setattr(vendor.install, "__defaults__", (tmp_path / "vendor",))
    assert vendor.main() == 1
    words = capsys.readouterr().err
    assert "xterm-6.0.0.tgz cannot be fetched" in words and "hint: check the network" in words
    assert list((tmp_path / "vendor").iterdir()) == []
