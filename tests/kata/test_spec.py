"""config.json: what is refused and in which words, what the guest is told of it, and what it has of its own."""

from __future__ import annotations

import base64
import copy
import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata import state
from pyvmm_kata.bundle import policy, settings
from pyvmm_kata.bundle.bundle import Bundle
from pyvmm_kata.bundle.checks import check_id, check_spec
from pyvmm_kata.bundle.default_spec import default_spec
from pyvmm_kata.bundle.guest_config import guest_config
from pyvmm_kata.bundle.guest_devices import ALL_DEVICES
from pyvmm_kata.bundle.guest_share import Nowhere
from pyvmm_kata.bundle.guest_spec import DEV, check, place
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.host import cgroups
from pyvmm_kata.host.namespaces import Member, owner
from pyvmm_kata.protocol import protobuf

MIB = 1 << 20


def spec_with(path: str, value: Any) -> dict[str, Any]:
    """A good config.json with one thing changed: ``process.user.uid``."""
    spec = copy.deepcopy(default_spec(["sh"], terminal=False))
    place: Any = spec
    *folders, last = path.split(".")
    for name in folders:
        place = place[int(name)] if name.isdigit() else place.setdefault(name, {})
    place[int(last) if last.isdigit() else last] = value
    return spec


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("ociVersion", "2.0", "ociVersion: '2.0' is not 1.x.y"),
        ("process", [], "process: a list where an object is wanted"),
        ("process.args", [], "process.args: names no program"),
        ("process.args", "sh", "process.args: a string where a list is wanted"),
        ("process.args", ["sh", 1], "process.args[1]: a number where a string is wanted"),
        ("process.args", ["a\0b"], "process.args[0]: a string with a zero byte"),
        ("process.cwd", "tmp", "process.cwd: not an absolute path"),
        ("process.user", {"uid": -1}, "process.user.uid: not 0 to 4294967295"),
        ("process.user", {"uid": True}, "process.user.uid: true or false where a number is wanted"),
        ("root", None, "root: is missing"),
        ("root.path", 3, "root.path: a number where a string is wanted"),
        ("mounts", {}, "mounts: an object where a list is wanted"),
        ("mounts.0.destination", "", "mounts[0].destination: is empty"),
        ("mounts.1.options", [None], "mounts[1].options[0]: null where a string is wanted"),
        ("annotations", {"a": 1}, "annotations['a']: a number where a string is wanted"),
        ("linux.namespaces", ["pid"], "linux.namespaces[0]: a string where an object is wanted"),
        ("linux.resources.memory", {"limit": "64M"}, "memory.limit: a string where a number is wanted"),
        ("linux.resources.pids", {"limit": 1.5}, "a number with a fraction where a whole number is wanted"),
        ("linux.resources.memory", {"limit": 1 << 70}, "memory.limit: not -9223372036854775808 to"),
        ("linux.namespaces", [{"type": "pids"}], "linux.namespaces[0].type: 'pids' is not one of cgroup, ipc,"),
        ("linux.sysctl", "a", "linux.sysctl: a string where an object is wanted"),
        ("linux.devices", 5, "linux.devices: a number where a list is wanted"),
        ("hostname", "\ud800", r"hostname: '\ud800' is no text"),
        ("Hostname", "other", "hostname: is there twice, as 'Hostname' too"),
        ("process.rlimits", [{"type": "RLIMIT_NOFILE", "hard": 1}], "process.rlimits[0].soft: is missing"),
        ("linux.resources.memory", 5, "linux.resources.memory: a number where an object is wanted"),
        ("hooks", {"poststop": [{"path": "true"}]}, "hooks.poststop[0].path: not an absolute path"),
    ],
)
def test_a_bad_field_is_named(path: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_spec(spec_with(path, value))
    assert str(error.value).startswith("config.json: ")
    assert words in str(error.value)


def test_a_good_one_is_taken() -> None:
    check_spec(default_spec(["sh"], terminal=True))


def test_null_is_nothing_and_names_have_any_case() -> None:
    """As runc's decoder has it."""
    spec = spec_with("linux.resources.memory", None)
    spec |= {"hooks": None, "annotations": {"a": None}, "unknown": [{}], "DomainName": "x"}
    check_spec(spec)
    assert "hooks" not in spec
    assert "unknown" not in spec
    assert "memory" not in spec["linux"]["resources"]
    assert (spec["annotations"], spec["domainname"]) == ({}, "x")


@pytest.mark.parametrize("text", ["", ".", "..", "-a", "a/b", "a b", "é", "a" * 256, "a\n"])
def test_ids_are_names_of_files(text: str) -> None:
    with pytest.raises(ConfigError):
        check_id(text)


@pytest.mark.parametrize("text", ["a", "a" * 255, "_", "...", "+a", ".a", "a-b_c.d+e"])
def test_ids_that_are_as_good_as_any(text: str) -> None:
    assert check_id(text) == text


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "not JSON"), (b"[]", "not a JSON object"), (b"[" * 100_000, "not JSON"), (None, "No such file")],
)
def test_a_bundle_that_cannot_be_read(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        Bundle.load(str(tmp_path))


def test_a_bundle_without_its_root(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(default_spec(["sh"], terminal=False)))
    with pytest.raises(ConfigError, match=r"root\.path: .*rootfs is no directory"):
        Bundle.load(str(tmp_path))


def test_annotations_and_limits_size_the_machine() -> None:
    chosen = settings.Settings(annotations=tuple(settings.ANNOTATIONS))
    assert chosen.size({}) == (512 * MIB, 1)
    memory, vcpus = chosen.size({"memory": {"limit": 300 * MIB}, "cpu": {"quota": 250_000, "period": 100_000}})
    assert memory >= 300 * MIB + settings.GUEST_OVERHEAD
    assert vcpus == 3
    wanted = chosen.with_annotations(
        {settings.PREFIX + "default_memory": "1024", settings.PREFIX + "default_vcpus": "4.0"}
    )
    assert wanted.size({}) == (1024 * MIB, 4)
    assert chosen.size({"cpu": {"quota": 10**9, "period": 1000}})[1] == settings.MAX_VCPUS
    with pytest.raises(ConfigError, match="not a number above 0"):
        chosen.with_annotations({settings.PREFIX + "default_vcpus": "many"})


@pytest.mark.parametrize(
    "memory, cpus, made",
    [
        (64, 1.0, (512, 2)),  # limits below the usual size are the guest's to enforce
        (1024, 1.0, (512, 2)),  # it grows
        (1024, 4.0, (512, 2)),
        (0, 4.5, (512, 5)),  # more than it may get
        (2048, 1.0, (2048 + 96, 1)),
    ],
)
def test_clones_have_one_size_as_far_as_they_may_grow(memory: int, cpus: float, made: tuple[int, int]) -> None:
    limits: dict[str, Any] = {"cpu": {"quota": int(cpus * 100_000), "period": 100_000}}
    if memory:
        limits["memory"] = {"limit": memory * MIB}
    chosen = settings.Settings(template="auto", vcpus=2, more_memory=1024 * MIB, more_cpus=2)
    size, vcpus = chosen.size(limits)
    assert (size // MIB, vcpus) == made
    assert chosen.size(limits, clone=False) == chosen._replace(template="off").size(limits)


def test_annotations_do_not_lead_to_other_files(tmp_path: Path) -> None:
    chosen = settings.Settings(str(tmp_path / "vmlinux"), str(tmp_path / "image"), annotations=("kernel", "image"))
    beside = str(tmp_path / "vmlinux.other")
    assert chosen.with_annotations({settings.PREFIX + "kernel": beside}).kernel == beside
    (tmp_path / "link").symlink_to("/etc/shadow")
    for path in ("/etc/shadow", str(tmp_path / "link"), f"{tmp_path}/../x"):
        with pytest.raises(ConfigError, match="is not in the folder of"):
            chosen.with_annotations({settings.PREFIX + "image": path})


@pytest.mark.parametrize("name", settings.ANNOTATIONS)
def test_no_annotation_is_taken_that_the_administrator_does_not_name(name: str) -> None:
    others = tuple(other for other in settings.ANNOTATIONS if other != name)
    for chosen in (settings.Settings(), settings.Settings(annotations=others)):
        assert chosen.with_annotations({"io.kubernetes.cri.container-type": "sandbox"}) == chosen
        with pytest.raises(ConfigError, match=f"{name} may not be set by containers") as caught:
            chosen.with_annotations({settings.ANNOTATIONS[name].key: "1"})
        assert name in caught.value.hint


def test_the_users_guide_names_each_annotation_and_setting() -> None:
    text = (Path(__file__).parents[2] / "docs" / "guide" / "containers.md").read_text()
    for each in settings.ANNOTATIONS.values():
        assert f"| `{each.name}` | `{each.key}" in text
    for name in settings.Settings._fields:
        assert name in settings.OF_CONTAINERS or re.search(rf"[`\n]{name}\b", text), name


def test_annotations_do_not_ask_for_more_memory_than_there_is() -> None:
    asked = {settings.PREFIX + "default_memory": "2048"}
    limited = settings.Settings(annotations=("default_memory",), max_memory=1 << 30)
    with pytest.raises(ConfigError, match="more than 1073741824"):
        limited.with_annotations(asked)
    assert limited._replace(max_memory=2 << 30).with_annotations(asked).memory == 2 << 30
    with pytest.raises(ConfigError, match="more than"):
        limited._replace(max_memory=0).with_annotations({settings.PREFIX + "default_memory": "999999999"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kernal = 'x'", "kernal is not known"),
        ("memory = 'much'", "is no size"),
        ("vcpus = 0", "not 1 to"),
        ("vcpus = '1'", "of the wrong kind"),
        ("annotations = ['kernel', 'firmware']", "no list of kernel, image"),
        ("annotations = 1", "no list of"),
        ("max_memory = 'all'", "is no size"),
        ("more_memory = '100M'", "in steps of 128 MiB"),
        ("more_memory = '1T'", "not 0 to 256 GiB"),
        ("more_cpus = -1", "is not 0 to 31"),
        ("more_cpus = 32", "is not 0 to 31"),
        ("more_cpus = '2'", "wrong kind"),
        ("more_disks = 1", "of the wrong kind"),
        ("policy = true", "of the wrong kind"),
        ("= 3", "Invalid"),
    ],
)
def test_a_bad_settings_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "kata.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        settings.load(str(path))
    assert str(path) in str(error.value)


READ = """
import sys
from pyvmm_kata.bundle import settings
memory = settings.load(sys.argv[1]).memory
print(memory, "tomllib" in sys.modules)
"""


def test_settings_are_parsed_once(tmp_path: Path) -> None:
    """What was found is kept in the user's cache, and counts for the same bytes only, while it is the user's own."""
    path, cache = tmp_path / "kata.toml", tmp_path / "cache"

    def read(**environment: str) -> tuple[int, bool]:
        done = subprocess.run(
            [sys.executable, "-c", READ, str(path)],
            env={"PATH": "", "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(cache), **environment},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        memory, parsed = done.stdout.split()
        assert done.stderr == ""
        return int(memory), parsed == "True"

    path.write_text("memory = '1G'")
    assert [read(), read()] == [(1 << 30, True), (1 << 30, False)]
    path.write_text("memory = '2G'")
    assert [read(), read()] == [(2 << 30, True), (2 << 30, False)]
    (kept,) = (cache / "pyvmm").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    good = kept.read_text()
    kept.chmod(0o666)
    assert read() == (2 << 30, True)
    for damage in ("", "[]", good[:-9], good.replace('"values": {', '"values": [{').replace("}}", "}]}"), "[" * 9999):
        kept.write_text(damage)
        kept.chmod(0o600)
        assert [read(), read()] == [(2 << 30, True), (2 << 30, False)]
    assert read(XDG_CACHE_HOME="", HOME="") == (2 << 30, True)
    assert read(XDG_CACHE_HOME=str(path)) == (2 << 30, True)
    path.write_text("memory = 2000-01-01")
    with pytest.raises(ConfigError):
        settings.load(str(path))
    assert [each.name for each in (cache / "pyvmm").iterdir()] == [kept.name]


def test_settings_of_many_files_do_not_fill_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(100):
        path = tmp_path / f"{number}.toml"
        path.write_text(f"memory = '{number + 100}M'")
        assert [settings.load(str(path)).memory for _ in range(2)] == [number + 100 << 20] * 2
    assert len(list((tmp_path / "cache" / "pyvmm").iterdir())) <= 16


def test_a_tree_is_removed_and_what_its_links_name_is_not(tmp_path: Path) -> None:
    tree, other = tmp_path / "tree", tmp_path / "other"
    for folder in (tree / "a" / "b", other):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
    (tree / "a" / "link").symlink_to(other)
    (tree / "broken").symlink_to(tmp_path / "none")
    os.mkfifo(tree / "a" / "fifo")
    state.remove_tree(str(tree))
    state.remove_tree(str(tree))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other"]
    assert (other / "file").read_text() == "x"


@pytest.mark.parametrize("named, other", [("kernel", "image"), ("image", "kernel")])
def test_settings_without_a_file_name_that_of_a_package(tmp_path: Path, named: str, other: str) -> None:
    path = tmp_path / "kata.toml"
    path.write_text(f'{named} = "/named"\n')
    top = Path(__file__).parents[2]
    code = f"from pyvmm_kata.bundle import settings; s = settings.load('{path}'); print(s.{named}, s.{other})"
    paths = f"{top}:{top}/examples/kata:{top}/examples/guest"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": paths}, capture_output=True, text=True)
    files = {"kernel": "vmlinux", "image": "kata.erofs"}
    assert done.stdout == f"/named {top}/examples/guest/pyvmm_guest/files/{files[other]}\n", done.stderr


def test_a_settings_file(tmp_path: Path) -> None:
    path = tmp_path / "kata.toml"
    path.write_text('kernel = "/k"\nimage = "/i"\nmemory = "1G"\nvcpus = 2\n')
    assert settings.load(str(path)) == settings.Settings("/k", "/i", 1 << 30, 2)
    path.write_text('annotations = ["default_vcpus"]\nmax_memory = "2G"\n')
    assert settings.load(str(path)) == settings.Settings(annotations=("default_vcpus",), max_memory=2 << 30)
    path.write_text("annotations = true\n")
    assert settings.load(str(path)).annotations == tuple(settings.ANNOTATIONS)
    with pytest.raises(ConfigError, match="No such file"):
        settings.load(str(tmp_path / "none"))


ALLOWED = "package agent_policy\n\n" + "".join(f"default {name}Request := true\n" for name in policy.SERVED)


def test_a_policy_is_that_of_the_file_or_of_an_annotation(tmp_path: Path) -> None:
    (tmp_path / "all.rego").write_text(ALLOWED)
    (tmp_path / "kata.toml").write_text('policy = "all.rego"\nannotations = ["policy"]\n')
    chosen = settings.load(str(tmp_path / "kata.toml"))
    assert chosen.policy == (f"{tmp_path}/all.rego", ALLOWED)
    # The samples of Kata's that have constants only
    other = (
        "import future.keywords.in\n" + ALLOWED.replace(" := ", " = ") + "default PullImageRequest := false # none\n"
    )
    asked = {settings.POLICY: base64.b64encode(other.encode()).decode()}
    assert chosen.with_annotations(asked).policy == (f"of the annotation {settings.POLICY}", other)
    (tmp_path / "kata.toml").write_text('policy = ""\n')
    assert settings.load(str(tmp_path / "kata.toml")).policy is None
    requests = {request.DESCRIPTOR.name for request, _ in protobuf.methods("grpc.AgentService").values()}
    assert {f"{name}Request" for name in policy.SERVED} == {*requests, "StorageRequest"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("default ExecProcessRequest := maybe", "line 1: 'default ExecProcessRequest := maybe' is no rule"),
        ("ExecProcessRequest if {", "line 1: .* is no rule"),
        ("default ExecProcessRequest := true := false", "is no rule"),
        ("\ndefault ExecRequest := true", "line 2: there is no request ExecRequest"),
        ("default ExecProcess := true", "there is no request ExecProcess"),
        ("default PullImageRequest := true\n" * 2, "line 2: a second rule for PullImageRequest"),
        ("default ExecProcessRequest := true", "CreateSandboxRequest is not allowed, and so no container runs"),
        (
            ALLOWED.replace("RemoveContainerRequest := true", "RemoveContainerRequest := false"),
            "RemoveContainerRequest is",
        ),
        ("", "is not allowed"),
        ("default \u00e4Request := true", "no text of ASCII"),
        ("\0", "no text of ASCII"),
        ("#" * 70_000, "more than 64 KiB"),
        ("\n" * 1000, "or 1000 lines"),
    ],
)
def test_what_is_no_policy(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.rego"
    path.write_text(text)
    (tmp_path / "kata.toml").write_text(f'policy = "{path}"\n')
    with pytest.raises(ConfigError, match=f"policy {path}.*{words}") as error:
        settings.load(str(tmp_path / "kata.toml"))
    assert "\n" not in str(error.value)
    asked = {settings.POLICY: base64.b64encode(text.encode()).decode()}
    with pytest.raises(ConfigError, match=f"annotation {settings.POLICY}.*{words}"):
        settings.Settings(annotations=("policy",)).with_annotations(asked)


def test_a_policy_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "kata.toml").write_text('policy = "none.rego"\n')
    with pytest.raises(ConfigError, match=f"policy {tmp_path}/none.rego: No such file"):
        settings.load(str(tmp_path / "kata.toml"))
    with pytest.raises(ConfigError, match="no base64"):
        settings.Settings(annotations=("policy",)).with_annotations({settings.POLICY: "default"})


@pytest.mark.parametrize(
    ("text", "systemd", "found"),
    [
        ("/libpod_parent/libpod-1", False, "/sys/fs/cgroup/libpod_parent/libpod-1"),
        ("", False, "/sys/fs/cgroup/pyvmm/c1"),
        ("machine.slice:libpod:1", True, "/sys/fs/cgroup/machine.slice/libpod-1.scope"),
        ("a-b.slice:x:1", True, "/sys/fs/cgroup/a.slice/a-b.slice/x-1.scope"),
    ],
)
def test_where_the_control_group_is(text: str, systemd: bool, found: str) -> None:
    assert cgroups.place(text, "c1", systemd=systemd) == found


@pytest.mark.parametrize("text", ["/", "/../x", "a/../../b", "a//b"])
def test_a_control_group_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError):
        cgroups.place(text, "c1", systemd=False)


# -- what the guest is told -------------------------------------------------------------------------------------------

NULL = {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}
HOST_DEVICE = {"path": "/dev/cpu_dma_latency", "type": "c", "major": 10, "minor": 124}
EVERYTHING = {"allow": True, "access": "rwm"}


def bundle_with(folder: Path, mounts: list[dict[str, Any]] | None = None, **linux: Any) -> Bundle:
    (folder / "rootfs").mkdir(exist_ok=True)
    spec = default_spec(["sh"], terminal=False)
    if mounts is not None:
        spec["mounts"] = mounts
    spec["linux"].update(linux)
    if "uts" not in [entry["type"] for entry in spec["linux"]["namespaces"]]:
        del spec["hostname"]
    return Bundle(str(folder), spec)


def guest(bundle: Bundle, *members: Member) -> dict[str, Any]:
    made: dict[str, Any] = place(bundle, "c1", Nowhere(), members=members)
    guest_config(made).message.SerializeToString()
    return made


def mount(folder: Path, source: str, **fields: Any) -> dict[str, Any]:
    """What the guest is told of a volume."""
    volume = {"destination": "/x", "type": "bind", "source": source, "options": ["rbind"], **fields}
    made: list[dict[str, Any]] = guest(bundle_with(folder, [volume]))["mounts"]
    return next(each for each in made if each["destination"] == volume["destination"])


# -- volumes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["/sys", "//sys", "/sys/", "/proc/../sys", "LINK/sys", "/proc/self/root/sys"])
def test_the_hosts_kernel_is_not_shared_however_it_is_written(tmp_path: Path, source: str) -> None:
    (tmp_path / "link").symlink_to("/")
    assert mount(tmp_path, source.replace("LINK", str(tmp_path / "link")))["source"] == "/sys"


@pytest.mark.parametrize("source", ["/proc/sys/kernel", "/dev", "/dev/pts", "/sys/kernel"])
def test_the_guest_shows_its_own(tmp_path: Path, source: str) -> None:
    assert mount(tmp_path, source)["source"] == source


def test_a_folder_that_only_looks_so(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    assert mount(tmp_path, f"{tmp_path}/sys")["source"] == "c1/0-x"
    if os.stat("/dev/shm").st_dev != os.stat("/dev").st_dev:
        assert mount(tmp_path, "/dev/shm")["source"] == "c1/0-x", "a tmpfs of the host's with files of the user's"


def test_the_file_that_is_another_in_each_copy(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path)
    assert not [each for each in guest(bundle)["mounts"] if each["source"].endswith("/generation")]
    bundle.spec["annotations"] = {"io.pyvmm.generation": "/run/app/generation"}
    last = guest(bundle)["mounts"][-1]
    assert (last["destination"], last["type"]) == ("/run/app/generation", "bind") and "ro" in last["options"]


@pytest.mark.parametrize("path", ["generation", "/", "/run/../x", "/run/", "//run/x"])
def test_a_file_that_is_another_in_each_copy_has_an_absolute_path(tmp_path: Path, path: str) -> None:
    bundle = bundle_with(tmp_path)
    bundle.spec["annotations"] = {"io.pyvmm.generation": path}
    with pytest.raises(ConfigError, match=r"annotation io\.pyvmm\.generation: .* is no absolute path"):
        guest(bundle)


def test_sysfs_in_a_user_namespace(tmp_path: Path) -> None:
    sysfs = {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}
    own, mapped = (
        guest(bundle_with(tmp_path, [sysfs], namespaces=[{"type": kind}]))["mounts"][0] for kind in ("pid", "user")
    )
    assert own == sysfs
    assert (mapped["type"], mapped["source"], mapped["options"]) == ("bind", "/sys", ["rbind", "ro"])


@pytest.fixture
def procfs(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "procfs"
    path.mkdir()
    if subprocess.run(["mount", "-t", "proc", "proc", str(path)], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_the_hosts_kernel_mounted_elsewhere(tmp_path: Path, procfs: Path) -> None:
    with pytest.raises(ConfigError, match="the host's kernel has this file"):
        mount(tmp_path, f"{procfs}/1")


def test_devices_are_told_by_their_number(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    assert mount(tmp_path, str(tmp_path / "link"))["source"] == "/dev/null"
    os.mkfifo(tmp_path / "null")
    with pytest.raises(ConfigError, match="no file, directory or socket"):
        mount(tmp_path, str(tmp_path / "null"))


def test_sockets_are_told_by_their_kind(tmp_path: Path) -> None:
    kinds = {"stream": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET, "datagram": socket.SOCK_DGRAM}
    made = {name: socket.socket(socket.AF_UNIX, kind) for name, kind in kinds.items()}
    os.symlink(tmp_path, link := f"/tmp/pyvmm-spec-{os.getpid()}")
    try:
        for name, sock in made.items():
            sock.bind(f"{link}/{name}")
            if name != "datagram":
                sock.listen(0)
        assert mount(tmp_path, str(tmp_path / "stream"))["source"] == "c1/0.sock"
        with pytest.raises(ConfigError, match="a socket of datagrams cannot be given"):
            mount(tmp_path, str(tmp_path / "datagram"))
        for _ in range(2):  # the second time with a connection in its backlog, which has no room for more
            with pytest.raises(ConfigError, match=r"a socket of packets \(SOCK_SEQPACKET\) cannot be given"):
                mount(tmp_path, str(tmp_path / "seqpacket"))
        made["stream"].settimeout(0)
        with pytest.raises(BlockingIOError):
            made["stream"].accept()  # nobody has connected to find it out
        made["stream"].close()
        assert mount(tmp_path, str(tmp_path / "stream"))["source"] == "c1/0.sock"
    finally:
        os.unlink(link)
        for sock in made.values():
            sock.close()


def test_shared_memory_is_the_guests(tmp_path: Path) -> None:
    first = mount(tmp_path, str(tmp_path), destination="/dev/shm")
    assert mount(tmp_path, f"{tmp_path}/.", destination="//dev/./shm/")["source"] == first["source"]
    (tmp_path / "other").mkdir()
    assert mount(tmp_path, str(tmp_path / "other"), destination="dev/shm")["source"] != first["source"]


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ({"options": ["rbind", "idmap"]}, "(idmap) cannot be given to a guest"),
        ({"options": ["bind", "ridmap=uids=0-1-2"]}, "(idmap) cannot be given to a guest"),
        ({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}, "(idmap) cannot be given to a guest"),
        ({"options": ["rbind", "rshared"]}, "what a guest mounts cannot appear on the host"),
        ({"options": ["shared", "bind", "ro"]}, "what a guest mounts cannot appear on the host"),
        ({"type": "overlay", "options": ["lowerdir=/no/such"]}, "mounts[0].options: /no/such: No such file"),
        ({"type": "overlay", "options": ["lowerdir=/tmp:/sys", "ro"]}, "mounts[0].options: /sys: a directory of the"),
        ({"type": "overlay", "options": ["lowerdir=a"]}, "mounts[0].options: 'a' is no absolute path"),
    ],
)
def test_volumes_that_cannot_be(tmp_path: Path, volume: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        mount(tmp_path, "/tmp", **volume)
    assert words in str(error.value)


# -- devices and privileges ------------------------------------------------------------------------------------------


def test_a_device_is_what_its_number_says(tmp_path: Path) -> None:
    assert guest(bundle_with(tmp_path, devices=[NULL]))["linux"]["devices"] == [NULL]
    for device in (HOST_DEVICE, {**HOST_DEVICE, "path": "/dev/null"}):
        with pytest.raises(ConfigError, match=r"linux\.devices\[0\]\.path: .* the guest has no such device"):
            check(bundle_with(tmp_path, devices=[device]))


def test_devices_are_where_a_guest_can_make_them(tmp_path: Path) -> None:
    """With no mount at /dev the root would have them, which is the host's."""
    scratch = {"destination": "/scratch/", "type": "tmpfs", "source": "tmpfs"}
    below = {"destination": "/scratch/data", "type": "bind", "source": str(tmp_path), "options": ["rbind"]}
    made = guest(bundle_with(tmp_path, [scratch], devices=[NULL, {**NULL, "path": "/scratch/null"}]))
    assert made["mounts"] == [scratch, DEV]
    shm = {"destination": "/dev//shm", "type": "tmpfs", "source": "shm"}
    assert guest(bundle_with(tmp_path, [scratch, shm]))["mounts"] == [scratch, DEV, shm]
    assert [each["destination"] for each in guest(bundle_with(tmp_path))["mounts"]].count("/dev") == 1
    fifo = {"path": "/root/fifo", "type": "p"}
    assert guest(bundle_with(tmp_path, devices=[fifo]))["linux"]["devices"] == [fifo]
    for path in ("/null", "/scratch/data/null", "/dev/../null", "null"):
        with pytest.raises(ConfigError, match=r"linux\.devices\[1\]\.path: .*null is in a file system of the host"):
            check(bundle_with(tmp_path, [scratch, below], devices=[NULL, {**NULL, "path": path}]))
    mapped = bundle_with(tmp_path, devices=[{**NULL, "path": "/null"}], **MAPPED)
    assert guest(mapped)["linux"]["devices"][0]["path"] == "/null", "what crun binds there"


def privileged(folder: Path, *rules: dict[str, Any], capabilities: tuple[str, ...] = ()) -> Bundle:
    bundle = bundle_with(folder, devices=[NULL, HOST_DEVICE], resources={"devices": list(rules)})
    bundle.spec["process"]["capabilities"]["bounding"] += capabilities
    return bundle


def test_who_may_do_everything_has_what_the_guest_has(tmp_path: Path) -> None:
    """`--privileged` of podman, ctr and CRI names all devices of the host."""
    everything = ("CAP_SYS_ADMIN", "CAP_SYS_RAWIO", "CAP_MKNOD")
    made = guest(privileged(tmp_path, EVERYTHING, capabilities=everything))
    assert made["linux"]["devices"] == [NULL, ALL_DEVICES]
    for bundle in (
        privileged(tmp_path, EVERYTHING),
        privileged(tmp_path, {"allow": False, "access": "rwm"}, capabilities=everything),
        privileged(tmp_path, {**EVERYTHING, "type": "c", "major": 10, "minor": 124}, capabilities=everything),
    ):
        with pytest.raises(ConfigError, match="cpu_dma_latency"):
            check(bundle)


def test_podmans_privileged(tmp_path: Path) -> None:
    """Of podman's file everything but what makes it privileged."""
    config = json.loads(Path(__file__).with_name("configs.json").read_text())["podman"]
    config["root"]["path"], config["mounts"] = str(tmp_path), []
    check(Bundle(str(tmp_path), config))


# -- namespaces ------------------------------------------------------------------------------------------------------


def kinds(spec: dict[str, Any]) -> dict[str, str]:
    return {entry["type"]: entry.get("path", "") for entry in spec["linux"]["namespaces"]}


def test_what_is_new_what_is_shared_and_what_is_the_guests(tmp_path: Path) -> None:
    wanted = [{"type": "network", "path": "/run/netns/x"}, {"type": "ipc"}, {"type": "pid", "path": "/proc/77/ns/pid"}]
    made = guest(bundle_with(tmp_path, namespaces=wanted), Member("first", 77), Member("second", 77))
    assert kinds(made) == {"mount": "", "ipc": "", "pid": "container:first"}
    assert "hostname" not in made, "it is the guest's: there is no namespace for one of its own"


@pytest.mark.parametrize(
    "path", ["/proc/1/ns/ipc", "/proc/77/ns/ipc", "/no/such", "/proc/self/ns/ipc", "//proc/1/ns/x"]
)
def test_namespaces_of_the_host_and_of_other_machines(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"linux\.namespaces\[0\]\.path: .* is the host's, or that of a container in"):
        check(bundle_with(tmp_path, namespaces=[{"type": "ipc", "path": path}]), [Member("c1", 1 << 30)])


def test_settings_of_ipc_go_where_its_namespace_is(tmp_path: Path) -> None:
    settings = {"kernel.shmmax": "1", "net/ipv4/conf/eth0.1/forwarding": "1", "kernel.domainname": "d"}
    own = guest_config(guest(bundle_with(tmp_path, sysctl=settings)))
    assert json.loads(own.text)["linux"]["sysctl"] == {"kernel.shmmax": "1", "kernel.domainname": "d"}
    assert dict(own.message.Linux.Sysctl) == {"net.ipv4.conf.eth0/1.forwarding": "1"}
    guests = guest_config(guest(bundle_with(tmp_path, sysctl=settings, namespaces=[{"type": "uts"}])))
    assert json.loads(guests.text)["linux"]["sysctl"] == {"kernel.domainname": "d"}
    assert set(guests.message.Linux.Sysctl) == {"net.ipv4.conf.eth0/1.forwarding", "kernel.shmmax"}


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"intelRdt": {"closID": "x"}}, "linux.intelRdt"),
        ({"resources": {"blockIO": {"weight": 100}}}, "linux.resources.blockIO.weight"),
        (
            {"resources": {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]}}},
            "linux.resources.blockIO.throttleReadBpsDevice",
        ),
    ],
)
def test_limits_of_the_hosts_disks_and_caches_are_refused(tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"config.json: {named}: "):
        check(bundle_with(tmp_path, **fields))


def test_limits_that_are_empty_are_none(tmp_path: Path) -> None:
    check(bundle_with(tmp_path, intelRdt={}, resources={"blockIO": {"weight": 0, "weightDevice": []}}))


PORTS, PING = "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"
MAPPED: dict[str, Any] = {
    "namespaces": [{"type": "user"}],
    "gidMappings": [
        {"containerID": 0, "hostID": 5000, "size": 10},
        {"containerID": 10, "hostID": 100, "size": 1},
    ],
}


def sysctls(bundle: Bundle) -> dict[str, str]:
    """What the agent sets for the machine's network."""
    return dict(guest_config(guest(bundle)).message.Linux.Sysctl)


def test_what_root_of_a_user_namespace_may_do_in_its_network(tmp_path: Path) -> None:
    """The network is the machine's, and so are the ids in its settings."""
    bundle = bundle_with(tmp_path, **MAPPED, sysctl={PING: "2 4"})
    capabilities = bundle.spec["process"]["capabilities"]["bounding"]
    assert "CAP_NET_BIND_SERVICE" in capabilities
    assert sysctls(bundle) == {PORTS: "0", PING: "5002 5004"}
    capabilities.remove("CAP_NET_BIND_SERVICE")
    assert sysctls(bundle) == {PING: "5002 5004"}
    assert sysctls(bundle_with(tmp_path, sysctl={PING: "2 4"})) == {PING: "2 4"}


@pytest.mark.parametrize("groups", ["0 10", "11 11", "1 0", "0 2147483647", "-1 0", "0", "x y"])
def test_groups_that_no_mapping_has_whole(tmp_path: Path, groups: str) -> None:
    bundle = bundle_with(tmp_path, **MAPPED, sysctl={PING: groups, PORTS: "80"})
    assert sysctls(bundle) == {PORTS: "80", PING: groups}


def test_no_field_is_lost(tmp_path: Path) -> None:
    """What the message has no field for: the guest's crun sees all of config.json."""
    bundle = bundle_with(
        tmp_path,
        resources={"unified": {"memory.high": "83886080"}, "devices": [{"allow": False, "access": "rwm"}]},
        personality={"domain": "LINUX32"},
        timeOffsets={"monotonic": {"secs": 100}},
    )
    bundle.spec["domainname"] = "example.org"
    bundle.spec["process"] |= {"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4}, "scheduler": {"nice": 5}}
    bundle.spec["process"]["user"]["umask"] = 0o27
    made = json.loads(guest_config(guest(bundle)).text)
    assert made["domainname"] == "example.org"
    assert made["process"] == {**bundle.spec["process"]}
    for key in ("personality", "timeOffsets", "seccomp", "maskedPaths", "rootfsPropagation"):
        assert made["linux"].get(key) == bundle.spec["linux"].get(key), key
    assert made["linux"]["resources"]["unified"] == {"memory.high": "83886080"}


def test_only_the_guest_knows(tmp_path: Path) -> None:
    """Its strings cannot be written by a user: the mark is another one each time."""
    entries = [{"type": "uts"}, {"type": "ipc", "path": "/proc/4711/ns/ipc"}]
    spec = guest(bundle_with(tmp_path, namespaces=entries), Member("other", 4711))
    one, two = guest_config(spec, "name"), guest_config(spec)
    made = json.loads(one.text)
    assert {"type": "ipc", "path": f"@{one.mark}:ns:ipc:other"} in made["linux"]["namespaces"]
    assert one.mark not in two.text
    assert made["hostname"] == spec.get("hostname", "name")


@pytest.fixture
def face() -> Iterator[int]:
    """A process with namespaces of its own."""
    command = ["unshare", "--ipc", "--uts", "cat"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(b"x")
        process.stdin.flush()
    except BrokenPipeError:
        pass
    if process.stdout.read(1) != b"x":
        pytest.skip("needs the right to make namespaces")
    yield process.pid
    process.stdin.close()
    process.wait()
    process.stdout.close()


def test_whose_namespace_it_is(face: int, tmp_path: Path) -> None:
    ours, its = Member("ours", os.getpid()), Member("its", face)
    assert owner(f"/proc/{face}/ns/ipc", "ipc", [ours, its]) == "its"
    assert owner(f"//proc/{face}/task/{face}/ns/uts", "uts", [ours, its]) == "its"
    assert owner(f"/proc/{os.getpid()}/ns/ipc", "ipc", [its]) is None
    assert owner(f"/proc/{os.getpid()}/ns/ipc", "ipc", [ours]) == "ours"
    (tmp_path / "ipc").touch()
    subprocess.run(["mount", "--bind", f"/proc/{face}/ns/ipc", str(tmp_path / "ipc")], check=True)
    try:
        assert owner(str(tmp_path / "ipc"), "ipc", [ours, its]) == "its", "the same one, bound elsewhere"
        assert owner(str(tmp_path / "ipc"), "ipc", [ours]) is None
    finally:
        subprocess.run(["umount", str(tmp_path / "ipc")], check=True)
    # The host's own, which every monitor is in: it is no container's, whatever number it has
    assert owner("/proc/1/ns/ipc", "ipc", [ours]) is None
