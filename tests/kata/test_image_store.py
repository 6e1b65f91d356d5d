"""The store of images: pulled from Debian's registry, imported, built; interrupted, shared, removed."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.bundle.root_disks import open_disk
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.image_store.names import full_name, short_name
from pyvmm_kata.image_store.roots import open_root
from pyvmm_kata.image_store.store import ImageStore, Registry
from tools.where import PYVMM

USER, PASSWORD = "somebody", "secret"
BCRYPT = "$2y$05$W.N8fWCT7WyYEOF9msH9kej8ZlKZa4cksBHeTD98.KC/rmy/cR9fe"
"""Of the password; the registry accepts no other hash."""
PLAIN = Registry(tls_verify=False)
LAYERS = [os.urandom(1 << 20), os.urandom(3 << 20)]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of two layers."""
    folder = tmp_path_factory.mktemp("image")
    layout = folder / "layout"
    subprocess.run(["umoci", "init", "--layout", str(layout)], check=True)
    subprocess.run(["umoci", "new", "--image", f"{layout}:one"], check=True)
    for number, content in enumerate(LAYERS):
        (folder / "file").write_bytes(content)
        insert = ["umoci", "insert", "--image", f"{layout}:one", str(folder / "file"), f"/file{number}"]
        subprocess.run(insert, check=True, capture_output=True)
    return layout


@contextlib.contextmanager
def serving(folder: Path, http_options: dict[str, Any], **more: Any) -> Iterator[str]:
    """Debian's registry on a free port of localhost; its address."""
    program = shutil.which("docker-registry")
    assert program, "docker-registry"
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address, **http_options},
        **more,
    }
    path = folder / "config.yml"
    path.write_text(json.dumps(config))
    with subprocess.Popen([program, "serve", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            wait_for(process, address)
            yield address
        finally:
            process.terminate()


def wait_for(process: subprocess.Popen[bytes], address: str) -> None:
    host, _, port = address.partition(":")
    while True:
        assert process.poll() is None, process.stderr and process.stderr.read()
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
            return
        time.sleep(0.05)  # a registry does not report that it listens


def push(layout: Path, target: str, *options: str) -> None:
    command = ["skopeo", "copy", "--quiet", "--insecure-policy", *options, f"oci:{layout}", f"docker://{target}"]
    subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("registry"), {}) as address:
        push(layout, f"{address}/box:1", "--dest-tls-verify=false")
        yield address


def content_of(path: str, tmp_path: Path) -> dict[str, bytes]:
    """The files of an erofs image."""
    target = tmp_path / "extracted"
    subprocess.run(["fsck.erofs", f"--extract={target}", "--overwrite", path], check=True, stdout=subprocess.DEVNULL)
    return {each.name: each.read_bytes() for each in target.iterdir()}


# ---- names ---------------------------------------------------------------------------------------------------------


def test_names_are_completed_as_docker_does() -> None:
    digest = f"sha256:{'0' * 64}"
    assert full_name("debian") == "docker.io/library/debian:latest"
    assert full_name("team/app:1.0") == "docker.io/team/app:1.0"
    assert full_name("localhost/app") == "localhost/app:latest"
    assert full_name("docker://ghcr.io/a/b/c:v1") == "ghcr.io/a/b/c:v1"
    assert full_name("127.0.0.1:5000/app") == "127.0.0.1:5000/app:latest"
    assert full_name(f"debian@{digest}") == f"docker.io/library/debian@{digest}"
    assert short_name(full_name("debian:13")) == "debian:13"
    for wrong in ("", "Upper", "a//b", "a:b:c", "a/../b", "x@sha256:12", "-x", "a b", "a\n", "a:" + "x" * 129, "ä"):
        with pytest.raises(ConfigError):
            full_name(wrong)


# ---- pull ----------------------------------------------------------------------------------------------------------


def test_an_image_of_a_registry_becomes_a_file_system(store: ImageStore, registry: str, tmp_path: Path) -> None:
    image = store.pull(f"{registry}/box:1", PLAIN)
    assert content_of(image.path, tmp_path) == {"file0": LAYERS[0], "file1": LAYERS[1]}
    assert image.names == (f"{registry}/box:1",)
    assert os.stat(image.path).st_size % (2 << 20) == 0
    assert open_disk(image.path).is_mappable
    assert not os.access(image.path, os.W_OK) or os.geteuid() == 0
    assert os.listdir(tmp_path / "store" / "downloads") == os.listdir(tmp_path / "store" / "work") == []
    again = store.pull(f"{registry}/box:1", PLAIN)
    assert (again.id, again.created) == (image.id, image.created)


def test_a_pull_that_fails_leaves_the_store_as_it_was(store: ImageStore, registry: str) -> None:
    with pytest.raises(HostError, match="manifest unknown") as unknown:
        store.pull(f"{registry}/box:2", PLAIN)
    assert "no such tag" in unknown.value.hint
    with pytest.raises(HostError) as secure:
        store.pull(f"{registry}/box:1")
    assert "--tls-verify=false" in secure.value.hint
    assert store.all_images() == []


def test_passwords_and_private_authorities(store: ImageStore, layout: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certs" / "ca.crt"
    certificate.parent.mkdir()
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    users = tmp_path / "users"
    users.write_text(f"{USER}:{BCRYPT}\n")
    tls = {"tls": {"certificate": str(certificate), "key": str(key)}}
    right = Registry("", f"{USER}:{PASSWORD}", str(certificate.parent))
    with serving(tmp_path, tls, auth={"htpasswd": {"realm": "test", "path": str(users)}}) as address:
        name = f"{address}/box"
        push(layout, name, f"--dest-creds={right.credentials}", f"--dest-cert-dir={right.certificates}")
        with pytest.raises(HostError) as unknown:
            store.pull(name, right._replace(certificates=""))
        assert "--cert-dir" in unknown.value.hint
        for credentials in ("", f"{USER}:wrong"):
            with pytest.raises(HostError) as refused:
                store.pull(name, right._replace(credentials=credentials))
            assert "--username" in refused.value.hint
        assert PASSWORD not in str(refused.value)
        assert store.pull(name, right).names == (f"{name}:latest",)


class Breaking(http.server.BaseHTTPRequestHandler):
    """Passes requests on, and ends the connection in the middle of the second layer while ``breaks`` is true."""

    upstream = ""
    breaks = True
    blobs: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        host, _, port = self.upstream.partition(":")
        connection = http.client.HTTPConnection(host, int(port))
        accept = {"Accept": self.headers.get("Accept", "*/*")}
        connection.request(self.command, self.path, headers=accept)
        answer = connection.getresponse()
        body = answer.read()
        if "/blobs/" in self.path:
            self.blobs.append(self.path.rpartition("/")[2])
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        cut = self.breaks and len(body) > len(LAYERS[1])
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_a_pull_continues_where_the_server_broke_off(store: ImageStore, registry: str, tmp_path: Path) -> None:
    Breaking.upstream, Breaking.breaks, Breaking.blobs = registry, True, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        name = f"127.0.0.1:{server.server_address[1]}/box:1"
        with pytest.raises(HostError):
            store.pull(name, PLAIN)
        assert store.all_images() == []
        before, Breaking.breaks, Breaking.blobs = set(Breaking.blobs), False, []
        image = store.pull(name, PLAIN)
        server.shutdown()
    assert content_of(image.path, tmp_path)["file1"] == LAYERS[1]
    assert before - set(Breaking.blobs), "a complete layer was fetched again"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_pull_that_is_ended_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        name = f"127.0.0.1:{silent.getsockname()[1]}/box"
        command = [str(PYVMM), "image", "--store", str(tmp_path / "store"), "pull", "--tls-verify=false", name]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            connection, _ = silent.accept()
            process.send_signal(number)
            assert process.wait(60) == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -number)
            while connection.recv(1 << 16):  # until skopeo has ended
                pass
            connection.close()
    assert number == signal.SIGKILL or os.listdir(tmp_path / "store" / "work") == []
    assert ImageStore(str(tmp_path / "store")).prune()[0] == []
    assert os.listdir(tmp_path / "store" / "work") == []


def test_many_pulls_at_once_make_one_image(registry: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pyvmm_kata.image_store.store import ImageStore, Registry;"
        "print(ImageStore(sys.argv[1]).pull(sys.argv[2], Registry(tls_verify=False)).created)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "store"), f"{registry}/box:1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(4)]
    assert len({process.communicate()[0] for process in running}) == 1
    assert all(process.returncode == 0 for process in running)


# ---- import and build ----------------------------------------------------------------------------------------------


def test_layouts_archives_and_folders_are_imported(store: ImageStore, layout: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.tar"
    copy = ["skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{layout}"]
    subprocess.run([*copy, f"docker-archive:{saved}:box:1"], check=True)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("content")
    images = [store.add(str(source), name) for source, name in ((layout, "a"), (saved, "b"), (tree, "c"))]
    assert [image.id for image in images].count(images[0].id) == 2  # the same image, by two ways
    assert store.add(str(tree), "d").id == images[2].id
    assert content_of(images[1].path, tmp_path)["file1"] == LAYERS[1]
    assert content_of(images[2].path, tmp_path)["file"] == b"content"
    with pytest.raises(ConfigError, match="disk"):
        store.add(images[0].path, "e")


@pytest.mark.skipif(os.geteuid() != 0, reason="buildah of an ordinary user needs ids for others")
def test_a_dockerfile_is_built(store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "containers.conf").write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024"]\n')
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n'
    )
    monkeypatch.setenv("CONTAINERS_CONF", str(tmp_path / "containers.conf"))
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    monkeypatch.setenv("BUILDAH_ISOLATION", "chroot")
    context = tmp_path / "context"
    context.mkdir()
    (context / "file").write_text("copied")
    (context / "Dockerfile").write_text('FROM scratch\nARG WORD\nCOPY file /file\nENV A=$WORD\nCMD ["/file"]\n')
    image = store.build(str(context), "mine", options=["--build-arg=WORD=built"])
    assert content_of(image.path, tmp_path) == {"file": b"copied"}
    assert image.process["args"] == ["/file"]
    assert "A=built" in image.process["env"]
    (context / "Dockerfile").write_text("FROM scratch\nCOPY none /\n")
    with pytest.raises(HostError, match="none"):
        store.build(str(context), "mine")
    assert store.get("mine").id == image.id


# ---- use and removal -----------------------------------------------------------------------------------------------


def test_an_image_in_use_is_not_removed(store: ImageStore, layout: Path) -> None:
    image = store.add(str(layout), "box")
    with store.in_use(image):
        with pytest.raises(ConfigError, match="in use"):
            store.remove("box")
        assert store.prune(unused=True)[0] == []
        assert store.get("box") == image
    assert store.remove("box") == (image, True)
    assert store.all_images() == []
    with pytest.raises(ConfigError, match="no image"):
        store.get("box")


def test_a_name_is_removed_before_the_image(store: ImageStore, layout: Path) -> None:
    image = store.add(str(layout), "one")
    store.add(str(layout), "two")
    assert not store.remove("one")[1]
    assert store.get("two").id == image.id
    assert store.remove(image.id[:15])[1]


def test_prune_removes_leftovers_and_nothing_that_is_made(store: ImageStore, layout: Path, tmp_path: Path) -> None:
    image = store.add(str(layout), "box")
    left, busy = tmp_path / "store" / "work" / "left", tmp_path / "store" / "work" / "busy"
    for folder in (left, busy):
        folder.mkdir()
        (folder / "image.erofs").write_bytes(bytes(1 << 20))
    fd = os.open(busy, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        gone, freed = store.prune()
    finally:
        os.close(fd)
    assert gone == []
    assert freed >= 1 << 20
    assert not left.exists()
    assert busy.exists()
    assert [each.id for each in store.all_images()] == [image.id]


def test_damaged_records_are_no_images(store: ImageStore, layout: Path, tmp_path: Path) -> None:
    image = store.add(str(layout), "box")
    record = tmp_path / "store" / "images" / f"{image.id[7:]}.json"
    for content in ("", "{", "[]", '{"created": "x"}', "\xff"):
        record.write_text(content, encoding="latin-1")
        assert store.find("box") is None
    (tmp_path / "store" / "names" / "other").write_bytes(b"\xff")
    assert store.all_images() == []
    assert store.add(str(layout), "box").id == image.id


def test_the_root_of_a_container_by_any_name(
    registry: str, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "store")

    def root(name: str, pull: str = "missing") -> str:
        folder = tmp_path / f"folder{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        with open_root(name, str(folder), pull=pull, store=place) as (path, _):
            return path

    with pytest.raises(ConfigError, match="no image"):
        root("box", "never")
    stored = ImageStore(place).add(str(layout), "box")
    assert root("box", "never") == root("docker://box") == stored.path
    assert root(str(layout)).endswith("rootfs")
    assert root(str(tmp_path)) == str(tmp_path)
    with pytest.raises(ConfigError, match="not a folder"):
        root("./none")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "box").mkdir()
    assert root("box") == str(tmp_path / "box")


def test_the_command(layout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pyvmm_kata.image_store.command import main

    def run(*words: str) -> str:
        assert main(["--store", str(tmp_path / "store"), *words]) == 0
        return capsys.readouterr().out

    digits = run("import", str(layout), "box").split()[0]
    assert run("ls", "-q") == f"{digits}\n"
    assert json.loads(run("ls", "--json")) == json.loads(run("inspect", "box"))
    assert run("ls").splitlines()[1].split()[:2] == ["box:latest", digits[7:19]]
    assert main(["--store", str(tmp_path / "store"), "rm", "none", "box"]) == 1
    assert "removed" in capsys.readouterr().out
    assert run("ls", "-q") == ""


def test_an_image_keeps_the_times_of_its_files(store: ImageStore, tmp_path: Path) -> None:
    """Python does not use a compiled module whose source has another time. The same files are the same image."""
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    tree.mkdir()
    for name, ns in (("old", 1_000_000_000_123_456_789), ("new", 1_750_000_000_000_000_001)):
        (tree / name).write_text(name)
        os.utime(tree / name, ns=(ns, ns))
    shutil.copytree(tree, copy)
    shutil.copystat(tree, copy)
    image = store.add(str(tree))
    assert store.add(str(copy)).id == image.id
    place = tmp_path / "extracted"
    subprocess.run(["fsck.erofs", "--preserve", f"--extract={place}", image.path], check=True, capture_output=True)
    for name in ("old", "new"):
        assert (place / name).stat().st_mtime_ns == (tree / name).stat().st_mtime_ns
