"""What users type: sizes, disks, machines."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from vmm import ConfigError
from vmm.config import BootConfig, MachineConfig, MemoryConfig
from vmm.faststart.record import replace
from vmm.options.limit import LimitConfig
from vmm.options.sizes import parse_size
from vmm.options.syntax import Key, Syntax, number, size, switch, word
from vmm.virtio.blk import DiskConfig
from vmm.virtio.net import NetConfig, Publish
from vmm.virtio.vsock import VsockConfig


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1K", 1024),
        ("256M", 256 << 20),
        ("256MiB", 256 << 20),
        ("2g", 2 << 30),
        ("1T", 1 << 40),
        ("8B", 8),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1.5G", "12X", "1 M", "0x10", "١M", "9" * 30, "iB"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_size(text, "--memory")
    assert "--memory" in str(caught.value) and repr(text) in str(caught.value)
    assert caught.value.hint


def test_a_disk_with_everything() -> None:
    disk = DiskConfig.parse("a,,b.img,ro,serial=S1,direct,cache=writethrough,queues=3")
    assert disk == DiskConfig("a,b.img", True, "S1", True, "writethrough", 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",ro",
        "x,rw",
        "x,ro=1",
        "x,cache=none",
        "x,serial",
        f"x,serial={'s' * 21}",
        "x,queues=a",
        "x,queues=65",
        "x,serial=\n",
    ],
)
def test_a_disk_that_is_not_right_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        DiskConfig.parse(text)


@pytest.mark.parametrize("cpus", [0, -1, 33])
def test_the_number_of_vcpus_is_checked(cpus: int) -> None:
    with pytest.raises(ConfigError, match="vCPU"):
        MachineConfig(BootConfig("k"), cpus=cpus)


@pytest.mark.parametrize("most", [1, -1, 33])
def test_how_many_vcpus_there_may_be_is_checked(most: int) -> None:
    with pytest.raises(ConfigError, match="vCPU"):
        MachineConfig(BootConfig("k"), cpus=2, max_cpus=most)


def test_configs_cannot_be_changed_but_replaced() -> None:
    config = MachineConfig(BootConfig("k"))
    with pytest.raises(AttributeError):
        config.cpus = 3  # type: ignore[misc]
    assert replace(config, cpus=3).cpus == 3
    assert config == MachineConfig(BootConfig("k")) != replace(config, cpus=3)
    assert hash(config) == hash(MachineConfig(BootConfig("k")))


def test_the_standard_librarys_dataclass_functions_work_on_configs() -> None:
    config = MachineConfig(BootConfig("k"), memory=MemoryConfig(1 << 30))
    assert dataclasses.is_dataclass(config)
    assert [field.name for field in dataclasses.fields(BootConfig)] == ["kernel", "initrd", "cmdline", "entry"]
    assert dataclasses.asdict(config)["memory"]["size"] == 1 << 30
    assert dataclasses.replace(config, cpus=2).cpus == 2


@pytest.mark.parametrize(
    "positional,named",
    [((), {}), (("k",), {"kernel": "k"}), (("k",), {"nothing": 1}), (("k", None, "", "auto", 5), {})],
)
def test_wrong_arguments_are_type_errors(positional: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        BootConfig(*positional, **named)


def test_vsock() -> None:
    assert VsockConfig.parse("cid=7,uds=/run/vm.sock") == VsockConfig(7, "/run/vm.sock")
    assert VsockConfig.parse("uds=/run/a,,b") == VsockConfig(3, "/run/a,b")
    assert VsockConfig.parse("cid=9,backend=vhost") == VsockConfig(9, "", "vhost")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cid=2,uds=a", "cid 2 is not 3 to"),
        ("cid=4294967295,uds=a", "cid 4294967295 is not 3 to"),
        ("cid=x,uds=a", "'cid=x' is not known"),
        ("cid=3", "needs uds=PATH"),
        ("cid=3,uds=", "needs uds=PATH"),
        ("cid=3,uds=a,backend=vhost", "has none"),
        ("cid=3,uds=a,backend=tcp", "backend='tcp' is not one of"),
        ("cid=3,uds=a,port=5", "'port=5' is not known"),
        ("", "'' is not known"),
    ],
)
def test_vsock_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        VsockConfig.parse(text)


# -- what users type for networks and for limits ---------------------------------------------------------------------


def test_a_tap_device_with_everything() -> None:
    text = "tap=tap0,mac=02:00:00:00:00:0a,queues=4,mtu=9000,rate=10M:64M,pps=1000"
    assert NetConfig.parse(text) == NetConfig(
        "tap", "tap0", "02:00:00:00:00:0a", 4, 9000, limit=LimitConfig(10 << 20, 64 << 20, 1000)
    )


def test_user_networking_with_ports() -> None:
    net = NetConfig.parse("user,publish=8080:80,publish=127.0.0.1:5353:53/udp,publish=[::1]:1:2/tcp")
    assert net.publish == (Publish(8080, 80), Publish(5353, 53, "udp", "127.0.0.1"), Publish(1, 2, "tcp", "::1"))


def test_several_networks_or_none() -> None:
    assert NetConfig.parse_all(["none"]) == NetConfig.parse_all([]) == ()
    assert [net.kind for net in NetConfig.parse_all(["user", "tap=a"])] == ["user", "tap"]
    assert NetConfig.parse("tap=a,backend=vhost") == NetConfig("tap", "a", backend="vhost")
    with pytest.raises(ConfigError):
        NetConfig.parse_all(["none", "user"])


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("user,backend=vhost", "backend=vhost is of tap devices", "backend=worker"),
        ("tap=a,backend=vhost,rate=10M", "has no limits: rate= and pps=", "with tc"),
        ("tap=a,backend=vhost,pps=100", "has no limits: rate= and pps=", "with tc"),
        ("tap=a,backend=qemu", "'qemu' is not one of worker, vhost", "--net"),
    ],
)
def test_what_vhost_cannot_do_is_refused(text: str, problem: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        NetConfig.parse(text)
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bridge=br0",
        "tap",
        "tap=",
        "tap=a/b",
        "tap=sixteen-bytes-16",
        "user=1",
        "user,queues=2",
        "user,speed=9",
        "user,mac=01:00:00:00:00:01",
        "user,mac=00:00:00:00:00:00",
        "user,mac=02:00:00:00:00",
        "user,mac=2000:0:0:0:0:0",
        "tap=a,queues=0",
        "tap=a,queues=17",
        "tap=a,mtu=67",
        "tap=a,mtu=65536",
        "tap=a,publish=80:80",
        "user,publish=80",
        "user,publish=0:80",
        "user,publish=80:65536",
        "user,publish=80:80/sctp",
        "user,publish=a b:80:80",
        "user,rate=0",
        "user,rate=10M:",
        "user,rate=1:2:3",
        "user,pps=fast",
    ],
)
def test_what_is_no_network_is_named(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NetConfig.parse_all([text])
    assert caught.value.code.startswith(("net-", "limit-", "size-"))


def test_limits_of_a_disk() -> None:
    disk = DiskConfig.parse("a.img,bps=100M,iops=500:1000,ro")
    assert disk.limit == LimitConfig(100 << 20, 0, 500, 1000)
    assert DiskConfig.parse("a.img").limit is None
    with pytest.raises(ConfigError, match="bps"):
        DiskConfig.parse("a.img,bps=,iops=5")


def test_a_burst_needs_a_rate() -> None:
    with pytest.raises(ConfigError):
        LimitConfig(bytes_burst=5)
    with pytest.raises(ConfigError):
        LimitConfig(bytes=-1)


# -- lists of options: parsed, explained and refused by one table ----------------------------------------------------


SYNTAX = Syntax(
    "thing",
    "a thing",
    (
        Key("ro", "", "read only", "read_only"),
        Key("queues", "N", "so many", convert=number),
        Key("room", "SIZE", "so large", convert=size),
        Key("fast-lane", "on|off", "or not", convert=switch),
        Key("label", "TEXT", "a name", convert=word),
        Key("note", "TEXT", "of any kind", "notes", many=True),
    ),
    first="FILE",
    of="file",
)


def test_values_by_field() -> None:
    text = "a,,b,ro,queues=2,room=1M,fast-lane=off,label=x=y,note=,note=two"
    assert SYNTAX.parse(text, "--thing") == {
        "first": "a,b",
        "read_only": True,
        "queues": 2,
        "room": 1 << 20,
        "fast_lane": False,
        "label": "x=y",
        "notes": ["", "two"],
    }


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no file is named"),
        (",ro", "no file is named"),
        ("f,", "option '' is not known"),
        ("f,RO", "option 'RO' is not known"),
        ("f,ro=1", "option 'ro=1' is not known"),
        ("f,queues", "option 'queues' is not known"),
        ("f,queues=-1", "option 'queues=-1' is not known"),
        ("f,queues=\u0663", "option 'queues=\u0663' is not known"),
        ("f,queues=" + "9" * 99, "is not known"),
        ("f,fast-lane=maybe", "option 'fast-lane=maybe' is not known"),
        ("f,label=", "option 'label=' is not known"),
        ("f,queues=1,queues=2", "queues comes twice"),
        ("f,room=much", "--thing room 'much' is not a size"),
    ],
)
def test_what_it_refuses(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SYNTAX.parse(text, "--thing")
    assert words in str(caught.value)
    if "size" not in words:
        assert caught.value.code == "thing-syntax"
        assert caught.value.hint.startswith("--thing FILE[,ro][,queues=N]")


def test_what_it_says_of_itself() -> None:
    lines = SYNTAX.help("--thing").splitlines()
    assert lines[0] == "--thing FILE, then with commas between:"
    assert [line.split()[0] for line in lines[1:]] == [key.shown() for key in SYNTAX.keys]
    assert Syntax("x", "", (Key("on", "", ""), Key("n", "N", ""))).usage("--x") == "--x [on][,n=N]"
