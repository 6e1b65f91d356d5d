"""config.json: what is refused and in which words, and what the guest is told."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata import protobuf
from pyvmm_kata.config import policy, settings
from pyvmm_kata.config.checks import check_id, check_spec
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.host.cgroups import place
from pyvmm_kata.oci.spec import default_spec
from pyvmm_kata.sandbox.bundle import Bundle

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
    chosen = settings.Settings(annotations=settings.ANNOTATIONS)
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
        with pytest.raises(ConfigError, match=f"{name} is not for containers") as caught:
            chosen.with_annotations({settings.annotation(name): "1"})
        assert name in caught.value.hint


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


def test_a_settings_file(tmp_path: Path) -> None:
    path = tmp_path / "kata.toml"
    path.write_text('kernel = "/k"\nimage = "/i"\nmemory = "1G"\nvcpus = 2\n')
    assert settings.load(str(path)) == settings.Settings("/k", "/i", 1 << 30, 2)
    path.write_text('annotations = ["default_vcpus"]\nmax_memory = "2G"\n')
    assert settings.load(str(path)) == settings.Settings(annotations=("default_vcpus",), max_memory=2 << 30)
    path.write_text("annotations = true\n")
    assert settings.load(str(path)).annotations == settings.ANNOTATIONS
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
    assert place(text, "c1", systemd=systemd) == found


@pytest.mark.parametrize("text", ["/", "/../x", "a/../../b", "a//b"])
def test_a_control_group_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError):
        place(text, "c1", systemd=False)
