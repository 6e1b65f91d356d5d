"""virtio-net with Linux's own driver: tap devices, and networks of passt's."""

from __future__ import annotations

import hashlib
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.command import Command, not_for_a_jail
from tests.driver import RAM, Buffer
from tests.guest.conftest import Boot
from tests.guest.vmfixture import PROMPT, Guest
from tests.net_driver import MAC, NetGuest, frame
from tests.netns import Outside, ip, own_network
from vmm import NetConfig, Publish
from vmm.virtio import spec
from vmm.virtio.net import device as net_spec
from vmm.virtio.net.tap import Tap
from vmm.virtio.net.vhost import VhostNet

TIMEOUT = 240.0
AMOUNT = 8 << 20
ETHERTYPE = 0x88B5
"""Of test frames."""
MERGED = spec.F_VERSION_1 | net_spec.NET_F_MAC | net_spec.NET_F_MRG_RXBUF
needs_vhost = pytest.mark.skipif(not os.path.exists("/dev/vhost-net"), reason="no /dev/vhost-net here")
WEB = """
import http.server, sys
server = http.server.HTTPServer((sys.argv[1], 80), http.server.SimpleHTTPRequestHandler)
print(flush=True)
server.serve_forever()
"""
# Answers every question for an A record with 192.0.2.1
NAMES = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
print(flush=True)
while True:
    query, who = server.recvfrom(512)
    end = query.index(0, 12) + 5
    found = query[end - 3] == 1
    answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\xc0\\0\\2\\1" if found else b""
    server.sendto(query[:2] + b"\\x81\\x80\\0\\1\\0" + bytes([found]) + bytes(4) + query[12:end] + answer, who)
"""


@pytest.fixture
def network() -> Iterator[None]:
    """A bridge with the address 10.0.7.1, and two tap devices in it."""
    with own_network():
        ip("link add br0 type bridge; addr add 10.0.7.1/24 dev br0; link set br0 up")
        for name in ("tap0", "tap1"):
            ip(f"tuntap add dev {name} mode tap; link set {name} master br0; link set {name} up")
        yield


def address(guest: Guest, number: int) -> None:
    guest.check(f"ip addr add 10.0.7.{number}/24 dev eth0 && ip link set eth0 up")


def stats(guest: Guest) -> dict[str, Any]:
    found: dict[str, Any] = net(guest).stats()
    return found


def net(guest: Guest) -> Any:
    """The network device of a guest."""
    return next(device for device in guest.machine.devices if device.device_id == spec.ID_NET)


def receive(listener: socket.socket, found: list[bytes]) -> None:
    program, _ = listener.accept()
    with program:
        digest = hashlib.sha256()
        while piece := program.recv(1 << 16):
            digest.update(piece)
        found.append(digest.hexdigest().encode())


def to_host(guest: Guest, amount: int = AMOUNT) -> None:
    """The guest sends a file, whose hash is compared."""
    found: list[bytes] = []
    with socket.create_server(("10.0.7.1", 5000)) as listener:
        listener.settimeout(TIMEOUT)
        receiver = threading.Thread(target=receive, args=(listener, found))
        receiver.start()
        guest.check(f"head -c {amount} /dev/urandom >/dev/shm/data && nc 10.0.7.1 5000 </dev/shm/data", TIMEOUT)
        receiver.join(TIMEOUT)
    assert found == [guest.check("sha256sum </dev/shm/data").split()[0].encode()]


def to_guest(guest: Guest, number: int, amount: int = AMOUNT) -> None:
    """The host sends bytes, whose hash is compared."""
    data = bytes(hashlib.shake_256(b"pyvmm").digest(1 << 20)) * (amount >> 20)
    guest.check(
        "nc -l -p 5001 </dev/null >/dev/shm/got 2>/dev/null & while ! netstat -lnt | grep -q :5001; do sleep 0.05; done"
    )
    with socket.create_connection((f"10.0.7.{number}", 5001), TIMEOUT) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        guest.check("wait", TIMEOUT)
    assert int(guest.check("wc -c </dev/shm/got")) == len(data)
    assert guest.check("sha256sum </dev/shm/got").split()[0] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("transport", "backend"),
    [
        ("mmio", "worker"),
        pytest.param("pci", "vhost", marks=(needs_vhost, pytest.mark.long)),  # test_queues_in_the_jail has vhost
        pytest.param("pci", "worker", marks=pytest.mark.long),
        pytest.param("mmio", "vhost", marks=(needs_vhost, pytest.mark.long)),
    ],
)
def test_large_transfers_in_large_frames(boot: Boot, network: None, transport: str, backend: str) -> None:
    guest = boot(nets=[NetConfig("tap", "tap0", backend=backend)], transport=transport)
    address(guest, 2)
    assert guest.check("cat /sys/class/net/eth0/carrier /sys/class/net/eth0/mtu").split() == ["1", "1500"]
    to_host(guest)
    to_guest(guest, 2)
    counted = stats(guest)
    assert counted["tx_bytes"] > AMOUNT and counted["rx_bytes"] > AMOUNT
    # With frames of 1500 bytes and no segmentation by others there would be this many
    assert counted["tx_frames"] < AMOUNT / 1448 / 2, counted
    assert counted["rx_frames"] < AMOUNT / 1448 * 1.5, counted
    assert counted["tx_malformed"] == counted["tx_dropped"] == counted["rx_dropped"] == 0
    guest.machine.pause()
    guest.machine.resume()
    assert " 0% packet loss" in guest.check("ping -c 2 -s 1400 10.0.7.1")
    to_guest(guest, 2)
    ip("link del tap0")
    guest.check("while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.05; done")


# -- the kernel's vhost, and a driver that is a program ---------------------------------------------------------


class Vhost(NetGuest):
    """A driver, a network card of vhost's, and who sees the frames of the tap device ``tap0``."""

    def __init__(self, queues: int = 1, **begin: Any) -> None:
        several = " multi_queue" if queues > 1 else ""
        ip(f"tuntap add dev tap0 mode tap{several}; link set tap0 addrgenmode none; link set tap0 up")
        super().__init__(card=VhostNet(Tap("tap0", queues), mac=MAC), **begin)
        self.host = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.host.settimeout(TIMEOUT)
        self.host.bind(("tap0", ETHERTYPE))

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        super().close()
        self.host.close()

    def both_ways(self, text: bytes) -> None:
        self.send(frame(b"out " + text, 100))
        assert self.host.recv(1 << 16) == frame(b"out " + text, 100)
        self.host.send(frame(b"in " + text, 1500))
        assert self.receive().frame == frame(b"in " + text, 1500)

    def fails(self) -> None:
        self.wait_for("the device needs a reset", lambda: bool(self.status & spec.DEVICE_NEEDS_RESET))
        assert self.transport.failures == 1
        self.begin()
        self.both_ways(b"after a reset")


@pytest.fixture
def private() -> Iterator[None]:
    with own_network():
        yield


@needs_vhost
def test_vhost_goes_on_where_it_was(private: None) -> None:
    with Vhost() as guest:
        assert not guest.offered() & spec.F_RING_PACKED
        for at in range(300):  # more than the queues are long
            guest.both_ways(b"%d" % at)
        assert guest.wait_irq() & spec.INT_VRING
        guest.transport.pause()
        guest.host.send(frame(b"meanwhile", 60))
        guest.transport.resume()
        assert guest.receive().frame == frame(b"meanwhile", 60)
        queues = guest.transport.save().payload["driver"]["queues"]
        assert queues[1]["next_index"] == 300
        guest.both_ways(b"after it was saved")
        counted = guest.net.stats()
        assert (counted["tx_frames"], counted["rx_frames"]) == (301, 302)
        assert counted["tx_bytes"] == 301 * 100
        guest.begin(MERGED)
        guest.both_ways(b"for another driver")


@needs_vhost
def test_vhost_and_rings_outside_of_ram(private: None) -> None:
    with Vhost(start=False) as guest:
        guest.negotiate()
        for index in range(3):
            guest.add_queue(index)
        guest.write(spec.MMIO_QUEUE_SEL, 1)
        guest.write(spec.MMIO_QUEUE_READY, 0)
        guest.write(spec.MMIO_QUEUE_DEVICE_LOW, RAM - 64)
        guest.write(spec.MMIO_QUEUE_READY, 1)
        guest.status |= spec.DRIVER_OK
        guest.fails()


@needs_vhost
@pytest.mark.parametrize("gpa", [RAM - 50, RAM, 1 << 40, (1 << 64) - 100], ids=hex)
def test_vhost_and_buffers_outside_of_ram(private: None, gpa: int) -> None:
    with Vhost() as guest:
        guest.both_ways(b"before")
        guest.send_buffers(Buffer(gpa, 100), wait=False)
        guest.fails()


@needs_vhost
def test_vhost_and_chains_without_end_or_head(private: None) -> None:
    with Vhost() as guest:
        queue = guest.tx()
        queue.offer(queue.size + 7)
        queue.kick()
        guest.fails()


@needs_vhost
def test_vhost_with_several_queues(private: None) -> None:
    with Vhost(queues=2) as guest:
        assert guest.config(8, 2) == 2
        for pairs in (2, 1, 2):
            done = guest.command(net_spec.NET_CTRL_MQ, net_spec.NET_CTRL_MQ_VQ_PAIRS_SET, pairs.to_bytes(2, "little"))
            assert done == net_spec.NET_OK
            for pair in range(pairs):
                guest.send(frame(b"by pair %d of %d" % (pair, pairs), 100), pair=pair)
                assert guest.host.recv(1 << 16) == frame(b"by pair %d of %d" % (pair, pairs), 100)


@needs_vhost
def test_a_tap_device_that_goes_away_under_vhost(private: None) -> None:
    with Vhost() as guest:
        ip("link del tap0")
        guest.wait_for("no link", lambda: guest.config(6, 2) == 0)
        guest.begin()  # which is nothing that ends a machine
        assert not guest.status & spec.DEVICE_NEEDS_RESET
        assert guest.net.stats() == {}


def test_queues_in_the_jail(guest_kernel: str, fresh_disk: Path, tmp_path: Path) -> None:
    """Drivers that begin have queues come and go, and a thread of the kernel's start, when no right is left for it."""
    net, more = "tap=tap0,queues=2", []
    if os.path.exists("/dev/vhost-net"):
        net += ",backend=vhost"
    if os.path.exists("/dev/vhost-vsock"):
        more = ["--vsock", "cid=78,backend=vhost"]
    with own_network():
        ip("tuntap add dev tap0 mode tap multi_queue; addr add 10.0.7.1/24 dev tap0; link set tap0 up")
        arguments = ["--kernel", guest_kernel, "--rootfs", str(fresh_disk), "--timeout", "300", "--cpus", "2"]
        command = Command(tmp_path, *arguments, "--jail", "on", "--net", net, *more)
        try:
            command.expect(PROMPT)
            assert not_for_a_jail(command.process.pid, tmp_path, {str(fresh_disk)}) == []
            command.type(
                b"for k in 1 2 3; do for name in virtio_net vmw_vsock_virtio_transport; do\n"
                b"cd /sys/bus/virtio/drivers/$name || continue\n"
                b"for d in virtio*; do echo $d >unbind; echo $d >bind; done; done; done\n"
                b"ip addr add 10.0.7.2/24 dev eth0; ip link set eth0 up; ping -c 2 10.0.7.1; poweroff\n"
            )
            assert command.wait() == 0, command.errors
        finally:
            command.close()
        assert " 0% packet loss" in command.text, command.text


# -- more of tap devices ----------------------------------------------------------------------------------------


def test_two_guests_on_a_bridge(boot: Boot, network: None) -> None:
    one, two = (boot(nets=[NetConfig("tap", f"tap{at}")], memory="128M") for at in (0, 1))
    for number, guest in ((2, one), (3, two)):
        address(guest, number)
    macs = [guest.check("cat /sys/class/net/eth0/address").strip() for guest in (one, two)]
    assert macs[0] != macs[1]
    assert " 0% packet loss" in one.check("ping -c 3 -s 1400 10.0.7.3")
    assert " 0% packet loss" in two.check("ping -c 3 10.0.7.1")
    assert macs[0] in two.check("ip neigh")


def test_several_queues(boot: Boot) -> None:
    with own_network():
        ip("tuntap add dev tap0 mode tap multi_queue; addr add 10.0.7.1/24 dev tap0; link set tap0 up")
        guest = boot(nets=[NetConfig("tap", "tap0", queues=2, mtu=1400, mac="02:00:00:00:00:77")], cpus=2)
        address(guest, 2)
        assert "tx-1" in guest.check("ls /sys/class/net/eth0/queues")
        assert guest.check("cat /sys/class/net/eth0/mtu /sys/class/net/eth0/address").split() == [
            "1400",
            "02:00:00:00:00:77",
        ]
        to_host(guest, AMOUNT // 4)
        to_guest(guest, 2, AMOUNT // 4)


def test_the_carrier_follows_the_cable(boot: Boot, network: None) -> None:
    guest = boot(nets=[NetConfig("tap", "tap0")])
    address(guest, 2)
    device = net(guest)
    device.set_link(False)
    guest.check("while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.05; done")
    device.set_link(True)
    guest.check("while [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.05; done")
    assert " 0% packet loss" in guest.check("ping -c 1 10.0.7.1")


@pytest.fixture
def outside() -> Iterator[Outside]:
    """A network with a machine in it that serves names and files."""
    if shutil.which("passt") is None:
        pytest.skip("no passt")
    found = re.search(r"^nameserver\s+(\d+\.\d+\.\d+\.\d+)", Path("/etc/resolv.conf").read_text(), re.MULTILINE)
    server = found[1] if found else "192.0.2.53"
    with own_network():
        other = Outside("192.0.2.2/24", "192.0.2.1/24", f"{server}/32")
        other.serve(WEB, "192.0.2.1")
        other.has_names = bool(found) and not server.startswith("127.")
        if other.has_names:
            other.serve(NAMES, server)
        yield other
        other.close()


def test_user_networking(boot: Boot, outside: Outside, tmp_path: Path) -> None:
    guest = boot(nets=[NetConfig("user", publish=(Publish(8080, 80), Publish(5353, 7000, "udp", "127.0.0.1")))])
    guest.check("udhcpc -i eth0 -q -n -t 10")
    assert "192.0.2.2" in guest.check("ip addr show eth0")
    assert guest.check("cat /sys/class/net/eth0/mtu").strip() == "65520"
    # From the guest to the world, by address and by name
    guest.check("wget -q -O /dev/null http://192.0.2.1/")
    if outside.has_names:
        guest.check("wget -q -O /dev/null http://anything.test/")
    # From the host into the guest
    guest.check("mkdir -p /tmp/www && head -c 8000000 /dev/urandom >/tmp/www/file && httpd -p 80 -h /tmp/www")
    with urllib.request.urlopen("http://127.0.0.1:8080/file", timeout=TIMEOUT) as answer:
        digest = hashlib.sha256(answer.read()).hexdigest()
    assert guest.check("sha256sum </tmp/www/file").split()[0] == digest
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"a datagram", ("127.0.0.1", 5353))
    # Nobody listens there, and the guest counts that
    guest.check("while grep '^Udp: [0-9]' /proc/net/snmp | grep -q '^Udp: [0-9]* 0 '; do sleep 0.05; done")
    # What listens on the host's loopback interface is not for the guest
    with socket.create_server(("127.0.0.1", 7777)):
        for where in ("192.0.2.1", "169.254.1.1"):
            assert guest.run(f"nc -w 3 {where} 7777 </dev/null")[0] != 0


def test_passt_ends_with_the_machine(boot: Boot, outside: Outside) -> None:
    guest = boot(nets=[NetConfig("user")], shell=False)
    device = net(guest)
    pid = device.backend.pid
    assert Path(f"/proc/{pid}/comm").read_text().startswith("passt")
    guest.machine.close()
    assert not Path(f"/proc/{pid}").exists()


def test_passt_ends_with_a_machine_that_is_killed(outside: Outside, guest_kernel: str) -> None:
    program = (
        "import sys, time; from vmm import *\n"
        "m = Machine(MachineConfig(BootConfig(sys.argv[1]), nets=(NetConfig('user'),)))\n"
        "print(m.attached[0].device.backend.pid, flush=True); time.sleep(60)"
    )
    vmm = subprocess.Popen([sys.executable, "-c", program, guest_kernel], stdout=subprocess.PIPE, text=True)
    assert vmm.stdout is not None
    with vmm, vmm.stdout as stdout:
        pid = int(stdout.readline())
        watch = os.pidfd_open(pid)
        vmm.kill()
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        assert poll.poll(TIMEOUT * 1000), "passt still runs"
        os.close(watch)
