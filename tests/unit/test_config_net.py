"""What users type for networks and for limits."""

from __future__ import annotations

import pytest

from vmm.config.limit import LimitConfig
from vmm.errors import ConfigError
from vmm.virtio.blk.config import DiskConfig
from vmm.virtio.net.config import NetConfig, Publish


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
    with pytest.raises(ConfigError):
        NetConfig.parse_all(["none", "user"])


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
