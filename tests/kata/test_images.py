"""Images that an attacker made: `pyvmm run` unpacks them into one directory, and they reach nothing else."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.bundle import images
from pyvmm_kata.bundle.image_layers import Layer
from pyvmm_kata.bundle.images import open_image
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host import jailed_call, safe_open
from pyvmm_kata.host.confinement import Limits

USER = 34567
SECRET = "root:$6$secret:1:::::::"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
Member = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes | None = None, **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.mode = 0o755
    if content is None:
        info.type = tarfile.DIRTYPE
    else:
        info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content or b""


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    return entry(name, b"", type=kind, linkname=target)


def archive(members: Iterable[Member]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


def put(layout: Path, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content), "mediaType": "application/octet-stream"}


def make_layout(path: Path, layers: Iterable[bytes], config: dict[str, Any] | None = None) -> Path:
    described = [put(path, each) for each in layers]
    made = put(path, json.dumps({"architecture": "amd64", "os": "linux", "config": config or {}}).encode())
    manifest = put(path, json.dumps({"schemaVersion": 2, "config": made, "layers": described}).encode())
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "one"}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path


def unpacked(tmp_path: Path, *layers: Iterable[Member], config: dict[str, Any] | None = None) -> tuple[Path, Any]:
    layout = make_layout(tmp_path / "layout", [gzip.compress(archive(each)) for each in layers], config)
    folder = tmp_path / "folder"
    folder.mkdir()
    rootfs, process = open_image(str(layout), str(folder))
    return Path(rootfs), process


def tree(root: Path) -> set[str]:
    return {str(each.relative_to(root)) for each in root.rglob("*")}


# ---- files of the host


def test_a_link_to_a_file_of_the_host_is_not_read(tmp_path: Path) -> None:
    """Users are looked up in the image's etc/passwd, which is a link to the host's shadow file, or one of ours."""
    secret = tmp_path / "shadow"
    secret.write_text(SECRET.replace("root", "me") + "\nme:x:77:88::/secret:/bin/sh\n")
    for number, target in enumerate((str(secret), "../" * 40 + str(secret), "/proc/self/root" + str(secret))):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ConfigError, match="user 'me' is not in its etc/passwd"):
            unpacked(tmp_path / str(number), [entry("etc"), link("etc/passwd", target)], config={"User": "me"})


def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    fifos = [entry("etc"), *(entry(f"etc/{name}", b"", type=tarfile.FIFOTYPE) for name in ("passwd", "group"))]
    rootfs, process = unpacked(tmp_path, fifos, config={"User": "7:8", "Cmd": ["x"]})
    assert process["user"] == {"uid": 7, "gid": 8, "additionalGids": []}
    assert stat.S_ISFIFO((rootfs / "etc" / "passwd").lstat().st_mode)


@pytest.mark.parametrize("place", ["index.json", "blobs/sha256"])
def test_a_layout_whose_files_are_others(tmp_path: Path, place: str) -> None:
    layout = make_layout(tmp_path / "layout", [archive([entry("a", b"1")])])
    names = [layout / place] if place == "index.json" else list((layout / place).iterdir())
    for name in names:
        name.unlink()
        os.mkfifo(name)
    with pytest.raises(ConfigError, match="not a regular file"):
        open_image(str(layout), str(tmp_path))
    for name in names:
        name.unlink()
        name.symlink_to("/etc/hostname")
    with pytest.raises(ConfigError, match=r"No such file or directory"):
        open_image(str(layout), str(tmp_path))
    for name in names:
        name.unlink()
        name.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"No such file or directory|not a regular file"):
        open_image(str(layout), str(tmp_path))


def test_names_that_lead_out_of_the_directory(tmp_path: Path) -> None:
    """Each of these is made inside, or not at all."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    up = "../" * 40 + str(victim).lstrip("/")
    rootfs, _ = unpacked(
        tmp_path,
        [
            entry(f"{up}/new", b"1"),
            entry(f"{victim}/absolute", b"2"),
            link("way", str(victim)),
            entry("way/through", b"3"),
            link("up", "../../../../../../../../.."),
            entry("up/above", b"4"),
            link("file", str(victim / "file")),
            entry("file", b"5"),
            entry("a/../../../b", b"6"),
        ],
        [link("deep", str(victim)), entry("deep/.wh.file", b""), entry(f"{up}/.wh.file", b"")],
    )
    assert [each.name for each in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == "mine"
    inside = rootfs / str(victim).lstrip("/")
    assert {each.name for each in inside.iterdir()} == {"new", "absolute", "through"}
    assert (rootfs / "above").read_bytes() == b"4" and (rootfs / "b").read_bytes() == b"6"
    assert (rootfs / "file").read_bytes() == b"5" and not (rootfs / "file").is_symlink()


def test_a_hard_link_to_a_file_of_the_host(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    for number, target in enumerate((str(secret), "../" * 40 + str(secret), "way/secret")):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ConfigError, match="a hard link to no file"):
            unpacked(tmp_path / str(number), [link("way", str(tmp_path)), link("it", target, tarfile.LNKTYPE)])
    assert secret.stat().st_nlink == 1


def test_a_hard_link_to_a_link_does_not_follow_it(tmp_path: Path) -> None:
    rootfs, _ = unpacked(
        tmp_path, [link("a", "/etc/hostname"), link("b", "a", tarfile.LNKTYPE), entry("b", b"new", mode=0o4755)]
    )
    assert (rootfs / "a").is_symlink() and (rootfs / "b").read_bytes() == b"new"


@pytest.mark.parametrize("name", [".wh...", ".wh..", ".wh.", "a/.wh..."])
def test_whiteouts_of_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="a whiteout of '"):
        unpacked(tmp_path, [entry("a"), entry("a/b", b"1")], [entry(name, b"")])


def test_whiteouts(tmp_path: Path) -> None:
    rootfs, _ = unpacked(
        tmp_path,
        [
            entry("a"),
            entry("a/b", b"1"),
            entry("a/c"),
            entry("a/c/d", b"2"),
            entry("e"),
            entry("e/f", b"3"),
            entry("g", b""),
        ],
        [
            entry("a/new", b"4"),
            entry("a/.wh..wh..opq", b""),
            entry("e/.wh.f", b""),
            entry(".wh.g", b""),
            entry(".wh.none", b""),
        ],
        [entry(".wh..wh.plnk", b"")],
    )
    assert tree(rootfs) == {"a", "a/new", "e"}


def test_devices_are_not_made(tmp_path: Path) -> None:
    kinds = [(tarfile.CHRTYPE, "null", 1, 3), (tarfile.BLKTYPE, "sda", 8, 0)]
    rootfs, _ = unpacked(
        tmp_path,
        [
            entry("dev"),
            *(entry(f"dev/{n}", b"", type=kind, devmajor=major, devminor=minor) for kind, n, major, minor in kinds),
        ],
    )
    assert tree(rootfs) == {"dev"}


def test_a_user_and_its_groups(tmp_path: Path) -> None:
    _, process = unpacked(
        tmp_path,
        [
            entry("etc"),
            link("etc/passwd", "/usr/lib/passwd"),
            entry("usr/lib/passwd", b"root:x:0:0::/root:/bin/sh\nme:x:77:88::/home/me:/bin/sh\n"),
            entry("etc/group", b"wheel:x:10:root,me\nmine:x:88:\nother:x:90:me\nwrong:x:-1:me\n"),
        ],
        config={"User": "me", "Entrypoint": ["/a"], "Cmd": ["b"], "Env": ["A=1", "TERM=dumb"], "WorkingDir": "/w"},
    )
    assert process["user"] == {"uid": 77, "gid": 88, "additionalGids": [10, 90]}
    assert process["args"] == ["/a", "b"] and process["cwd"] == "/w"
    assert {"A=1", "TERM=dumb", "HOME=/home/me"} < set(process["env"])


# ---- what it may take


def zeros(layout: Path, size: int) -> Path:
    """An image whose one file has *size* zeros, in a thousandth of that."""
    made = io.BytesIO()
    head = tarfile.TarInfo("big")
    head.size = size
    with gzip.open(made, "wb", compresslevel=1) as file:
        file.write(head.tobuf())
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return make_layout(layout, [made.getvalue()])


def test_an_image_that_becomes_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "SIZE_MOST", 4 << 20)
    with pytest.raises(HostError, match=r"layer 1 of 1: big: the image has more than 4 MiB"):
        open_image(str(zeros(tmp_path / "layout", 8 << 20)), str(tmp_path))


def test_an_image_with_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ENTRIES_MOST", 100)
    with pytest.raises(HostError, match="the image has more than 100 entries"):
        unpacked(tmp_path, [entry(f"{n}", b"") for n in range(101)])


def test_an_image_that_leaves_no_room(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    head = tarfile.TarInfo("big")
    head.size = min(free.f_bavail * free.f_frsize, images.SIZE_MOST)
    if head.size == images.SIZE_MOST:
        pytest.skip("more room than an image may take")
    layout = make_layout(tmp_path / "layout", [gzip.compress(head.tobuf())])
    with pytest.raises(HostError, match="less than a tenth of the file system would be free"):
        open_image(str(layout), str(tmp_path))


def test_an_entry_with_a_header_of_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jailed_call, "MEMORY", 64 << 20)
    made = io.BytesIO()
    head = tarfile.TarInfo("pax")
    head.type, head.size = tarfile.XHDTYPE, 2 << 30
    with gzip.open(made, "wb", compresslevel=1) as file:
        file.write(head.tobuf())
        for _ in range(80):
            file.write(bytes(1 << 20))
    with pytest.raises(ConfigError, match="takes too much memory"):
        open_image(str(make_layout(tmp_path / "layout", [made.getvalue()])), str(tmp_path))


def test_one_that_is_not_done_in_time(tmp_path: Path) -> None:
    """It waits for an archive that does not come."""
    out, into = os.pipe()
    try:
        with pytest.raises(HostError, match=r"it: not done after 0.1 s"):
            images.unpack([Layer("layer 1 of 1")], [out], str(tmp_path), "it", owners=False, seconds=0.1)
    finally:
        os.close(out)
        os.close(into)


def test_thousands_of_entries(tmp_path: Path) -> None:
    rootfs, _ = unpacked(tmp_path, [entry(f"d{n % 7}/f{n}", b"x") for n in range(5000)])
    assert sum(each.is_file() for each in rootfs.rglob("*")) == 5000


def test_a_directory_that_is_deeper_than_a_path_is_long(tmp_path: Path) -> None:
    """By links it is made, and is removed with the rest."""
    down = "/".join(["d" * 200] * 18)
    members = [
        entry(down),
        link("way", down),
        entry(f"way/{down}"),
        link("way2", f"way/{down}"),
        entry(f"way2/{down}", mode=0),
    ]
    rootfs, _ = unpacked(tmp_path, members)
    images.remove(str(rootfs.parent))
    assert not rootfs.parent.exists()


@pytest.mark.parametrize(
    "content",
    [b"text", gzip.compress(b"text" * 1000), gzip.compress(archive([entry("a", b"1" * 9999)]))[:60],
     b"BZhjunk", b"\xfd7zXZ\0junk"],
    ids=["text", "gzip", "cut", "bzip2", "xz"],
)  # fmt: skip
def test_layers_that_are_no_archives(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"layer 1 of 1: (no archive, or )?damaged|no archive"):
        open_image(str(make_layout(tmp_path / "layout", [content])), str(tmp_path))


@pytest.mark.parametrize("name", ["bz2", "lzma", "zstandard"])
def test_layers_of_other_compressions(tmp_path: Path, name: str) -> None:
    compress = pytest.importorskip(name).compress
    layout = make_layout(tmp_path / "layout", [compress(archive([entry("a", b"1" * 100000)]))])
    rootfs, _ = open_image(str(layout), str(tmp_path))
    assert Path(rootfs, "a").read_bytes() == b"1" * 100000


def test_a_layer_that_is_another_one(tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", [archive([entry("a", b"1")])])
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"].partition(":")[2]
    layer = json.loads((layout / "blobs/sha256" / manifest).read_text())["layers"][0]["digest"]
    (layout / "blobs/sha256" / layer.partition(":")[2]).write_bytes(archive([entry("a", b"2")]))
    with pytest.raises(ConfigError, match=f"damaged: its digest is not {layer}"):
        open_image(str(layout), str(tmp_path))


@pytest.mark.parametrize(
    "index",
    ["[" * 100000, "[]", "{}", '{"manifests": 7}', '{"manifests": [7]}', '{"manifests": [{"digest": "sha256:../x"}]}',
     '{"manifests": [{"digest": "md5:00"}]}', "\0", '{"manifests": [{"digest": ["sha256:"], "annotations": 3}]}'],
)  # fmt: skip
def test_an_index_that_is_none(tmp_path: Path, index: str) -> None:
    layout = make_layout(tmp_path / "layout", [archive([entry("a", b"1")])])
    (layout / "index.json").write_text(index)
    with pytest.raises(ConfigError):
        open_image(str(layout), str(tmp_path))


@pytest.mark.parametrize(
    "config", [{"Env": 3}, {"Cmd": [1]}, {"WorkingDir": "x"}, {"WorkingDir": 3}, {"User": "nobody"}, {"User": "0:x"}]
)
def test_a_configuration_that_is_none(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"config\.|is not in its etc/"):
        unpacked(tmp_path, [entry("a", b"1")], config=config)


def test_an_archive_of_docker_whose_layers_are_links(tmp_path: Path) -> None:
    secret = tmp_path / "secret.tar"
    secret.write_bytes(archive([entry("secret", b"1")]))
    layer = archive([entry("a", b"1")])
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = json.dumps({"config": {"Cmd": ["/a"]}, "rootfs": {"diff_ids": [digest]}}).encode()
    manifest = json.dumps([{"Config": "c.json", "RepoTags": ["x:one"], "Layers": ["l/layer.tar"]}]).encode()
    common = [entry("c.json", config), entry("manifest.json", manifest), entry("l")]
    for number, target in enumerate(("../real.tar", str(secret), "../" * 40 + str(secret))):
        image = tmp_path / f"{number}.tar"
        image.write_bytes(archive([*common, entry("real.tar", layer), link("l/layer.tar", target)]))
        folder = tmp_path / str(number)
        folder.mkdir()
        if target == "../real.tar":
            rootfs, process = open_image(str(image), str(folder))
            assert os.listdir(rootfs) == ["a"] and process["args"] == ["/a"]
        else:
            with pytest.raises(ConfigError, match=r"l/layer.tar: No such file or directory"):
                open_image(str(image), str(folder))


# ---- owners and permissions


@as_root
def test_owners_bits_and_capabilities(tmp_path: Path) -> None:
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"  # cap_net_raw+ep
    xattrs = {
        "SCHILY.xattr.security.capability": capability.decode(errors="surrogateescape"),
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.a": "b",
    }
    rootfs, _ = unpacked(
        tmp_path,
        [
            entry("su", b"1", mode=0o6755, uid=12, gid=34, mtime=99),
            entry("ping", b"2", pax_headers=xattrs),
            entry("closed", mode=0, uid=5),
            entry("closed/file", b"3", mode=0),
            link("link", "su"),
            entry("d", mtime=1234567),
            entry("d/x", b"4"),
        ],
    )
    su = (rootfs / "su").stat()
    assert (su.st_mode, su.st_uid, su.st_gid, su.st_mtime) == (stat.S_IFREG | 0o6755, 12, 34, 99)
    assert os.getxattr(rootfs / "ping", "security.capability") == capability
    assert "trusted.overlay.opaque" not in os.listxattr(rootfs / "ping")
    assert stat.S_IMODE((rootfs / "closed").stat().st_mode) == 0 and (rootfs / "d").stat().st_mtime == 1234567


SCRIPT = """
import json, sys
from pyvmm_kata.errors import VmmError
from pyvmm_kata.bundle import images
try:
    print(json.dumps(images.open_image(sys.argv[1], sys.argv[2])))
except VmmError as error:
    print(json.dumps({"error": str(error)}))
"""


@as_root
def test_an_ordinary_user(tmp_path: Path, as_user: Callable[..., Any]) -> None:
    """Owners are not kept, and the same is refused."""
    members = [entry("su", b"1", mode=0o4755, uid=12), entry("closed", mode=0), entry("closed/f", b"2"), entry("l")]
    answer = as_user(make_layout(tmp_path / "layout", [archive(members)]))
    root = Path(answer[0])
    assert (root / "su").stat().st_uid == USER and stat.S_IMODE((root / "closed").stat().st_mode) == 0
    hostile = [entry("etc"), link("etc/passwd", "/etc/shadow"), entry("../../x", b"", type=tarfile.FIFOTYPE)]
    answer = as_user(make_layout(tmp_path / "hostile", [archive(hostile)], {"User": "daemon"}))
    assert answer["error"].endswith("user 'daemon' is not in its etc/passwd")


@pytest.fixture
def as_user(tmp_path: Path) -> Callable[[Path], Any]:
    """Opens an image as an ordinary user."""
    place = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    if subprocess.run(["setpriv", "--reuid", str(USER), "--clear-groups", "unshare", "-U", "true"]).returncode:
        pytest.skip("no user namespaces")

    def run(layout: Path) -> Any:
        copy = place / layout.name
        subprocess.run(["cp", "-r", layout, copy], check=True)
        (copy / "out").mkdir()
        subprocess.run(["chown", "-R", f"{USER}:{USER}", place], check=True)
        become = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", "--"]
        command = [*become, sys.executable, "-c", SCRIPT, str(copy), str(copy / "out")]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
        )
        return json.loads(done.stdout)

    return run


# ---- the process


def probe(root: Path, code: Callable[[], Any], files: list[int] | None = None) -> Any:
    def work(own: list[int], tell: Any) -> dict[str, Any]:
        return {"found": code()}

    return jailed_call.run_in(str(root), files or [], work, Limits(20, 1 << 20), "it")["found"]


def refuses(code: Callable[[], Any]) -> str:
    try:
        return f"did {code()!r}"
    except OSError as error:
        return os.strerror(error.errno or 0)


def test_what_the_process_has(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    with open(tmp_path / "file") as file:
        fds, socket_, fork, program, root, device, kill = probe(
            tmp_path,
            lambda: (
                [fd for fd in range(3, 1024) if not refuses(lambda fd=fd: os.fstat(fd)).startswith("Bad")],  # type: ignore[misc]
                refuses(lambda: os.pipe()),
                refuses(lambda: os.fork()),
                refuses(lambda: os.execv("/file", ["x"])),
                os.listdir("/"),
                refuses(lambda: os.mknod("/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))),
                refuses(lambda: os.kill(1, 0)),
            ),
            [file.fileno()],
        )
    assert fds == [3, 4], "the pipe to us, and the one file"
    assert {socket_, fork, program, kill} == {"Function not implemented"}
    assert root == ["file"] and device == "Operation not permitted"


@pytest.mark.parametrize(
    "end, words",
    [
        (lambda: os.abort(), "its process ended of SIG"),
        (lambda: os._exit(3), "its process ended with status 3"),
        (lambda: os.write(3, b"x" * 100000), "its process ended"),
        (lambda: os.write(3, b"[" * 60000 + b"\n"), "its process ended"),
        (lambda: os.write(3, b'{"error": "\\u001b[31m' + b"x" * 5000 + b'"}\n'), r"it: \\x1b\[31mx+$"),
    ],
)
def test_one_that_was_taken_over(tmp_path: Path, end: Callable[[], Any], words: str) -> None:
    with pytest.raises(HostError, match=words) as caught:
        probe(tmp_path, end)
    assert len(str(caught.value)) < 1200


def test_files_below_a_directory_of_others(tmp_path: Path) -> None:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "root" / "etc" / "real").write_text("inside")
    os.mkfifo(tmp_path / "root" / "fifo")
    for name, target in (("a", "/etc/real"), ("b", "../../../etc/real"), ("c", "/outside"), ("d", "../../outside")):
        (tmp_path / "root" / "etc" / name).symlink_to(target)
    directory = os.open(tmp_path / "root", os.O_PATH)
    try:
        for name in ("etc/a", "/etc/b", "../etc/real"):
            assert safe_open.read_file(directory, name, 6) == b"inside"
        for name in ("etc/c", "etc/d"):
            with pytest.raises(FileNotFoundError):
                safe_open.read_file(directory, name, 100)
        for name in ("fifo", "etc"):
            with pytest.raises(OSError, match="not a regular file"):
                safe_open.read_file(directory, name, 100)
        with pytest.raises(OSError, match="larger than 5 bytes"):
            safe_open.read_file(directory, "etc/real", 5)
    finally:
        os.close(directory)
