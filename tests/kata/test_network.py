"""What a network namespace has, as the guest is told it, and the tap devices beside it: real ones, no guest."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.pod import network
from vmm import Publish
from vmm.virtio.net.tap import Tap

MAC = "02:00:00:00:00:07"
SETUP = f"""
ip link add eth0 address {MAC} mtu 1400 type veth peer name host0
ip addr add 10.1.2.3/24 dev eth0
ip addr add fd00::3/64 dev eth0 nodad
ip link set eth0 up
ip route add default via 10.1.2.1 metric 100
ip route add 10.9.0.0/16 dev eth0 scope link
ip neigh add 10.1.2.1 lladdr 02:00:00:00:00:09 dev eth0 nud permanent
"""


def can_make_networks() -> bool:
    probe = "ip link add name v0 type veth peer name v1 && tc qdisc add dev v0 ingress"
    if os.geteuid() != 0 or not os.access("/dev/net/tun", os.W_OK):
        return False
    try:
        return subprocess.run(["unshare", "-n", "sh", "-c", probe], capture_output=True).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not can_make_networks(), reason="needs the right to make networks, ip and tc")


@pytest.fixture
def namespace() -> Iterator[str]:
    """The path of a network namespace with one interface."""
    holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; read line"], stdin=-1, stdout=-1)
    assert holder.stdout is not None
    holder.stdout.readline()
    subprocess.run(["nsenter", f"--net=/proc/{holder.pid}/ns/net", "sh", "-ec", SETUP], check=True)
    yield f"/proc/{holder.pid}/ns/net"
    holder.kill()
    holder.communicate()


def devices(namespace: str) -> list[str]:
    command = ["nsenter", f"--net={namespace}", "ip", "-o", "link"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split(": ")[1].partition("@")[0] for line in text.splitlines()]


def test_the_guest_gets_what_is_there(namespace: str) -> None:
    made = network.in_namespace(namespace, network.take_over)
    (interface,) = made.interfaces
    assert (interface.name, interface.mac, interface.mtu) == ("eth0", MAC, 1400)
    assert {(each.text, each.prefix) for each in interface.addresses} == {("10.1.2.3", 24), ("fd00::3", 64)}
    assert {(each.dest, each.gateway) for each in interface.routes} >= {("", "10.1.2.1"), ("10.9.0.0/16", "")}
    assert [(each.address, each.mac) for each in interface.neighbors] == [("10.1.2.1", "02:00:00:00:00:09")]
    (net,) = made.nets
    assert (net.kind, net.mac, net.mtu) == ("tap", MAC, 1400)
    assert net.tap in devices(namespace)
    made.release()
    assert net.tap not in devices(namespace), "it goes with its last descriptor"


def test_routes_on_the_link_come_before_gateways(namespace: str) -> None:
    made = network.in_namespace(namespace, network.take_over)
    made.release()
    gateways = [message.gateway for message in made.interfaces[0].route_messages()]
    assert gateways == sorted(gateways)


def test_what_a_killed_machine_left_is_replaced(namespace: str) -> None:
    for _ in range(2):
        network.in_namespace(namespace, network.take_over).release()
    command = ["nsenter", f"--net={namespace}", "tc", "filter", "show", "dev", "eth0", "ingress"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert text.count("Egress Redirect") == 1


def test_a_second_machine_is_refused(namespace: str) -> None:
    first = network.in_namespace(namespace, network.take_over)
    with pytest.raises(ConfigError, match="another machine has taken it over"):
        network.in_namespace(namespace, network.take_over)
    first.release()


def test_a_namespace_with_nothing_in_it() -> None:
    def look() -> network.Network:
        return network.take_over()

    assert network.in_namespace("", look).nets == ()


def test_no_such_namespace() -> None:
    with pytest.raises(ConfigError, match="/no/where: No such file"):
        network.in_namespace("/no/where", lambda: None)


def test_user_networking_without_any_network() -> None:
    with pytest.raises(HostError, match="needs a default route"):
        network.in_namespace("", network.user_network)


class Recorder:
    """An agent that only notes."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda value: self.noted.append((name, value))


def test_user_networking_has_the_hosts_address(namespace: str) -> None:
    made = network.in_namespace(namespace, lambda: network.user_network([Publish(8080, 80)]))
    agent = Recorder()
    made.configure(agent)  # type: ignore[arg-type]
    names = [name for name, _ in agent.noted]
    assert names == ["update_interface", "update_routes"]
    interface = agent.noted[0][1]
    assert (interface.hwAddr, interface.IPAddresses[0].address) == (network.USER_MAC, "10.1.2.3")
    assert interface.IPAddresses[0].mask == "24"
    assert agent.noted[1][1][0].gateway == "10.1.2.1"
    assert made.nets[0].publish == (Publish(8080, 80),)


class Told:
    """What an agent would be told."""

    def __init__(self) -> None:
        self.interfaces: list[Any] = []
        self.routes: list[Any] = []
        self.addresses: list[tuple[int, str]] = []

    def readdress(self, number: int, mac: str) -> None:
        self.addresses.append((number, mac))

    def update_interface(self, interface: Any) -> None:
        self.interfaces.append(interface)

    def update_routes(self, routes: list[Any]) -> None:
        self.routes += routes

    def add_neighbors(self, neighbors: list[Any]) -> None:
        pass


@contextmanager
def new_namespace() -> Iterator[int]:
    """A process that has a network namespace of its own."""
    with subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; read line"], stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder.pid
        holder.kill()


@pytest.fixture
def empty() -> Iterator[str]:
    """The path of a network namespace without interfaces."""
    with new_namespace() as pid:
        yield f"/proc/{pid}/ns/net"


def fill(namespace: str, script: str = SETUP) -> None:
    subprocess.run(["nsenter", f"--net={namespace}", "sh", "-ec", script], check=True)


def test_an_interface_that_comes_later(empty: str) -> None:
    made = network.in_namespace(empty, lambda: network.take_over(empty))
    assert made.spares == (made.nets[0].mac,)
    told = Told()
    made.adopt(told, told.readdress)  # type: ignore[arg-type]
    assert told.interfaces == []
    fill(empty)
    made.adopt(told, told.readdress)  # type: ignore[arg-type]
    (interface,) = told.interfaces
    assert (interface.name, interface.hwAddr, interface.mtu) == ("eth0", MAC, 1400), "its address is the guest's"
    assert told.addresses == [(0, MAC)]
    assert [(each.address, each.mask) for each in interface.IPAddresses] == [("10.1.2.3", "24"), ("fd00::3", "64")]
    assert [(route.dest, route.metric) for route in told.routes] == [("10.9.0.0/16", 0), ("", 100)]
    made.adopt(told, told.readdress)  # type: ignore[arg-type]
    assert len(told.interfaces) == 1
    made.release()


MORE = "ip link add eth1 address 02:00:00:00:00:31 type veth peer name host1; ip link set eth1 up"


def test_several_that_come_later(empty: str) -> None:
    made = network.in_namespace(empty, lambda: network.take_over(empty, 3))
    assert len(set(made.spares)) == 3
    fill(empty)
    fill(empty, MORE)
    told = Told()
    made.adopt(told, told.readdress)  # type: ignore[arg-type]
    assert told.addresses == [(0, MAC), (1, "02:00:00:00:00:31")]
    assert [interface.name for interface in told.interfaces] == ["eth0", "eth1"]
    shown = subprocess.run(
        ["nsenter", f"--net={empty}", "tc", "filter", "show", "dev", "eth1", "ingress"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "pyvmm1" in shown
    made.release()


def test_more_come_later_than_there_are_devices(empty: str) -> None:
    made = network.in_namespace(empty, lambda: network.take_over(empty))
    fill(empty)
    fill(empty, MORE)
    told = Told()
    with pytest.raises(ConfigError, match=r"has got eth0, eth1 .*, and room for 1"):
        made.adopt(told, told.readdress)  # type: ignore[arg-type]
    assert told.addresses == told.interfaces == []
    made.release()


def test_a_namespace_in_which_another_machine_waits(empty: str) -> None:
    made = network.in_namespace(empty, lambda: network.take_over(empty))
    fill(empty)
    with pytest.raises(ConfigError, match="another machine has taken it over"):
        network.in_namespace(empty, network.take_over)
    made.release()


TAP_SETUP = f"""
ip tuntap add dev tap0 mode tap
ip link set tap0 address {MAC} up
ip addr add 10.1.2.3/24 dev tap0
ip route add default via 10.1.2.1
"""


def can_edit_packets() -> bool:
    keep = "tc filter add dev v0 parent ffff: matchall action skbedit ptype host"
    probe = f"ip link add name v0 type veth peer name v1 && tc qdisc add dev v0 ingress && {keep}"
    return subprocess.run(["unshare", "-n", "sh", "-c", probe], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_edit_packets(), reason="the kernel has no act_skbedit")
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_what_is_dialled_beside_a_program_that_makes_the_network(late: bool) -> None:
    """pasta and slirp4netns dial the container's address from inside of its namespace: that is the guest's to answer,
    and its answer comes back, although the guest sends it to its gateway."""
    network.in_namespace("", lambda: _dial_and_answer(late))


def _dial_and_answer(late: bool) -> None:
    """:param late: the program makes it when the machine is there"""
    made = network.take_over(f"/proc/self/task/{threading.get_native_id()}/ns/net") if late else None
    subprocess.run(["sh", "-ec", f"ip link set lo up\n{TAP_SETUP}"], check=True)
    if made is None:
        made = network.take_over()
    told = Told()
    made.adopt(told, told.readdress)  # type: ignore[arg-type]
    assert [interface.name for interface in made.interfaces] == ["tap0"]
    tap = Tap("pyvmm0")
    dialler = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        dialler.settimeout(30)
        dialler.connect(("10.1.2.3", 53))
        dialler.send(b"question")
        frame = b""
        while b"question" not in frame:
            assert select.select(tap.fds, (), (), 30)[0], "nothing arrives"
            frame = os.read(tap.fds[0], 4096)[12:]
        own, place, port = frame[:6], frame[26:30], frame[34:36]
        assert (own.hex(":"), socket.inet_ntoa(place)) == (made.interfaces[0].mac, network.PLACE)
        answer = b"\0\x35" + port + struct.pack(">HH", 8 + 6, 0) + b"answer"  # UDP without a checksum
        packet = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(answer), 0, 0, 64, 17, 0) + frame[30:34] + place
        total = sum(struct.unpack(">10H", packet))
        total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        packet = packet[:10] + total.to_bytes(2, "big") + packet[12:]
        gateway = b"\2\0\0\0\0\x99"
        os.write(tap.fds[0], bytes(12) + gateway + own + b"\x08\0" + packet + answer)
        assert dialler.recv(100) == b"answer"
    finally:
        dialler.close()
        tap.close()
        made.release()
    # The machine is gone: the namespace's address is its own again
    again = subprocess.run(["ip", "route", "get", "10.1.2.3"], capture_output=True, text=True, check=True)
    assert again.stdout.startswith("local 10.1.2.3 dev lo")
