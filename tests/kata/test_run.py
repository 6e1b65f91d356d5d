"""pyvmm run: what the user asks for, as config.json; images, unpacked by the real tools."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata import run
from pyvmm_kata.config.checks import check_spec
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.oci.monitor import NETWORK, PUBLISH
from pyvmm_kata.sandbox.images import open_image


def spec_of(tmp_path: Path, *arguments: str, process: dict[str, Any] | None = None) -> dict[str, Any]:
    options = run.parser().parse_args([*arguments])
    spec = run.make_spec(options, "/rootfs", process or {}, str(tmp_path), "c1")
    check_spec(spec)
    return spec


def test_options_become_config_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "k")
    monkeypatch.chdir(tmp_path)
    arguments = "-it -v site:/srv:ro -p 8080:80 -p 127.0.0.1:53:53/udp -e A=1 -e KEPT -e GONE -m 64M --cpus 1.5 -w /srv"
    spec = spec_of(tmp_path, *arguments.split(), "-u", "5:6", "--read-only", "image", "sh", "-c", "exit 3")
    process = spec["process"]
    assert (process["args"], process["cwd"], process["terminal"]) == (["sh", "-c", "exit 3"], "/srv", True)
    assert process["user"] == {"uid": 5, "gid": 6}
    assert {"A=1", "KEPT=k"} <= set(process["env"])
    assert not any(entry.startswith("GONE") for entry in process["env"])
    (volume,) = (mount for mount in spec["mounts"] if mount["destination"] == "/srv")
    assert volume["source"] == str(tmp_path / "site")
    assert "ro" in volume["options"]
    assert spec["root"] == {"path": "/rootfs", "readonly": True}
    assert spec["linux"]["resources"]["memory"] == {"limit": 64 << 20}
    assert spec["linux"]["resources"]["cpu"] == {"quota": 150_000, "period": 100_000}
    assert spec["annotations"] == {NETWORK: "user", PUBLISH: "8080:80 127.0.0.1:53:53/udp"}
    assert (tmp_path / "resolv.conf").read_text().startswith("nameserver ")


def test_the_image_says_what_the_user_does_not(tmp_path: Path) -> None:
    wanted = {"args": ["/bin/serve"], "env": ["PATH=/bin", "A=1"], "cwd": "/data", "user": {"uid": 7, "gid": 8}}
    spec = spec_of(tmp_path, "-e", "A=2", "image", process=wanted)
    process = spec["process"]
    assert (process["args"], process["cwd"], process["user"]) == (["/bin/serve"], "/data", {"uid": 7, "gid": 8})
    assert process["env"] == ["PATH=/bin", "A=2"]


def test_no_network_and_that_of_a_namespace(tmp_path: Path) -> None:
    assert spec_of(tmp_path, "--network", "none", "image", "sh")["annotations"] == {}
    spec = spec_of(tmp_path, "--network", "/run/netns/x", "image", "sh")
    assert {"type": "network", "path": "/run/netns/x"} in spec["linux"]["namespaces"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["image"], "which program"),
        (["-v", "x", "image", "sh"], "is not DIR:PATH"),
        (["-v", "a:b", "image", "sh"], "is not DIR:PATH"),
        (["-m", "much", "image", "sh"], "is no size"),
        (["--cpus", "0.001", "image", "sh"], "is not 0.01"),
        (["-p", "http", "image", "sh"], "publish=http"),
        (["-p", "1:1", "--network", "none", "image", "sh"], "--publish is of --network user"),
        (["--network", "bridge", "image", "sh"], "is not user, none"),
        (["-u", "root", "image", "sh"], "is not UID"),
        (["-e", "=1", "image", "sh"], "has no name"),
    ],
)
def test_what_cannot_be(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        spec_of(tmp_path, *arguments)


def test_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder, disk, OCI layout or archive"):
        open_image(str(tmp_path / "none"), str(tmp_path))
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(ConfigError, match="no archive of an image"):
        open_image(str(tmp_path / "text"), str(tmp_path))
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("file"), io.BytesIO())
    with pytest.raises(ConfigError, match="of no image"):
        open_image(str(tmp_path / "other.tar"), str(tmp_path))
    (tmp_path / "rootfs").mkdir()
    assert open_image(str(tmp_path / "rootfs"), str(tmp_path)) == (str(tmp_path / "rootfs"), {})


needs_tools = pytest.mark.skipif(
    shutil.which("umoci") is None or shutil.which("skopeo") is None, reason="umoci and skopeo are not installed"
)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI layout with one image, made by umoci."""
    path = tmp_path / "layout"
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "hello").write_text("hello\n")
    for command in (
        ["init", "--layout", str(path)],
        ["new", "--image", f"{path}:one"],
        ["insert", "--image", f"{path}:one", str(tmp_path / "files"), "/data"],
        ["config", "--image", f"{path}:one", "--config.cmd", "/bin/serve", "--config.env", "A=1"],
    ):
        subprocess.run(["umoci", *command], check=True, capture_output=True)
    return path


@needs_tools
def test_an_oci_layout(layout: Path, tmp_path: Path) -> None:
    for number, name in enumerate((str(layout), f"{layout}:one", f"oci:{layout}:one")):
        folder = tmp_path / f"unpacked{number}"
        folder.mkdir()
        rootfs, process = open_image(name, str(folder))
        assert Path(rootfs, "data", "hello").read_text() == "hello\n"
        assert process["args"] == ["/bin/serve"]
        assert "A=1" in process["env"]


@needs_tools
def test_a_layout_with_several_images(layout: Path, tmp_path: Path) -> None:
    subprocess.run(["umoci", "tag", "--image", f"{layout}:one", "two"], check=True, capture_output=True)
    with pytest.raises(ConfigError, match="2 images with a name"):
        open_image(str(layout), str(tmp_path))


@needs_tools
def test_a_docker_archive(layout: Path, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    copy = ["skopeo", "copy", "--insecure-policy", f"oci:{layout}:one", f"docker-archive:{archive}:one:latest"]
    subprocess.run(copy, check=True, capture_output=True)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    rootfs, process = open_image(str(archive), str(folder))
    assert Path(rootfs, "data", "hello").read_text() == "hello\n"
    assert json.dumps(process["args"]) == '["/bin/serve"]'
