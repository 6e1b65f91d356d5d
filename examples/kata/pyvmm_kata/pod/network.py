"""The guest's network: the interfaces of the pod's network namespace, with their addresses and routes.

The owner of the namespace (podman, CNI) has added an interface to it, with addresses, routes, MTU and MAC address. A
tap device is added, frames that arrive at one are sent by the other (tc, *mirred*, in both directions), and the guest's
own interface gets the same name, addresses and routes. The namespace's own stack does not see these frames.

Everything here is called in the namespace: the front ends enter it (:func:`enter`) before they make threads, or work
in a thread that has (:func:`in_namespace`).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from errno import EEXIST, ENOENT
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host import rtnetlink
from pyvmm_kata.host.rtnetlink import Rtnetlink
from pyvmm_kata.protocol import protobuf
from vmm import NetConfig, Publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyvmm_kata.pod.agent_client import AgentClient

CLONE_NEWNET = 0x4000_0000
TAP_PREFIX = "pyvmm"
MAX_MTU = 65535
_TUN = "/dev/net/tun"
# linux/if_tun.h
_TUNSETIFF, _TUNSETQUEUE = 0x4004_54CA, 0x4004_54D9
_TAP, _NO_PI, _VNET_HDR, _MULTI_QUEUE, _DETACH_QUEUE = 0x2, 0x1000, 0x4000, 0x100, 0x400
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B
# linux/if_arp.h
_ETHERNET = 1
_LEAD, _ALL = 1, 2
"""The order of filters of what arrives at a tap device."""

USER_DNS = "169.254.1.1"
"""Where the resolver is that passt has for its guest."""
USER_MAC = "02:00:00:00:00:02"

Result = TypeVar("Result")


class Address(NamedTuple):
    """An address of an interface, and the length of its prefix."""

    text: str
    prefix: int

    @property
    def family(self) -> int:
        """0 for IPv4, 1 for IPv6: ``types.IPFamily``."""
        return int(":" in self.text)


class Route(NamedTuple):
    """A route: *dest* is ``10.0.0.0/24``, empty for the default; *gateway* is empty for what is on the link."""

    dest: str
    gateway: str
    source: str
    scope: int
    family: int
    metric: int = 0


class Neighbor(NamedTuple):
    """A permanent neighbour entry of the namespace."""

    address: str
    mac: str
    state: int


class Interface(NamedTuple):
    """The network configuration of the guest.

    :ivar is_tap: a program of the host is at the other end: pasta, slirp4netns
    """

    name: str
    mac: str
    mtu: int
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...] = ()
    neighbors: tuple[Neighbor, ...] = ()
    is_tap: bool = False

    def tell(self, agent: AgentClient) -> None:
        """Configure the guest's interface with this MAC address."""
        agent.update_interface(
            protobuf.message("types.Interface")(
                device=self.name,
                name=self.name,
                hwAddr=self.mac,
                mtu=self.mtu,
                IPAddresses=[
                    {"family": each.family, "address": each.text, "mask": str(each.prefix)} for each in self.addresses
                ],
            )
        )

    def route_messages(self) -> list[Any]:
        """Its routes, each a ``types.Route``; on-link routes first, since gateways are behind them."""
        ordered = sorted(self.routes, key=lambda route: bool(route.gateway))
        return [
            protobuf.message("types.Route")(
                dest=route.dest,
                gateway=route.gateway,
                source=route.source,
                scope=route.scope,
                family=route.family,
                device=self.name,
                metric=route.metric,
            )
            for route in ordered
        ]

    def neighbor_messages(self) -> list[Any]:
        """Its neighbours, each a ``types.ARPNeighbor``."""
        return [
            protobuf.message("types.ARPNeighbor")(
                toIPAddress={"family": int(":" in each.address), "address": each.address},
                device=self.name,
                lladdr=each.mac,
                state=each.state,
            )
            for each in self.neighbors
        ]


class KeptNet(NamedTuple):
    """A network device of a saved machine.

    :ivar mac: its MAC address, which the guest keeps
    :ivar name: of the interface in the guest; empty: it is a spare device
    """

    mac: str
    name: str


class Network:
    """A guest's network.  *nets* are the devices of its machine.

    :param namespace: the path of the namespace to which interfaces may be added: then the devices are spare ones, for
        these
    """

    def __init__(
        self,
        interfaces: Sequence[Interface],
        nets: Sequence[NetConfig],
        keepers: Sequence[int] = (),
        *,
        namespace: str = "",
    ) -> None:
        self.interfaces = tuple(interfaces)
        self.nets = tuple(nets)
        self._namespace = namespace
        self._keepers = list(keepers)

    def release(self) -> None:
        """The machine has opened its devices: from now on they are removed with it. A second call does nothing."""
        while self._keepers:
            os.close(self._keepers.pop())

    def take_keepers(self) -> list[int]:
        """The caller owns from now on what :meth:`release` would close."""
        keepers, self._keepers = self._keepers, []
        return keepers

    @property
    def spares(self) -> tuple[str, ...]:
        """The MAC addresses of the devices for interfaces that do not exist yet."""
        return tuple(net.mac for net in self.nets) if self._namespace else ()

    def kept(self) -> list[KeptNet]:
        """The devices in the form that a copy of the machine has them."""
        names = {number: (each.mac, each.name) for number, each in enumerate(self.interfaces)}
        return [KeptNet(*names.get(number, (net.mac, ""))) for number, net in enumerate(self.nets)]

    def take_up(self, nets: Sequence[KeptNet], agent: AgentClient, readdress: Callable[[int, str], None]) -> None:
        """Replaces :meth:`configure` in a copy of another machine: its interfaces keep their MAC addresses, and get the
        names, addresses and routes of these.

        :param nets: the devices of that machine
        :param readdress: sets the MAC address of the device of that number, which has no driver yet
        """
        found = []
        for number, (interface, net) in enumerate(zip(self.interfaces, nets, strict=False)):
            if net.name:
                found.append(interface._replace(mac=net.mac))
            else:
                readdress(number, interface.mac)
                found.append(interface)
        self.interfaces = tuple(found)
        if found:
            self.configure(agent)

    def readdress(self, change: Callable[[int, str], None]) -> None:
        """Set the MAC addresses of the machine's devices, of which none has a driver yet, to those of the interfaces.

        :param change: sets the address of the device of that number
        """
        for number, interface in enumerate(self.interfaces):
            change(number, interface.mac)

    def adopt(self, agent: AgentClient, readdress: Callable[[int, str], None]) -> None:
        """Give the guest the interfaces that have been added to the namespace by now: the spare devices become these,
        in order.

        :param readdress: sets the MAC address of the device of that number, which has no driver yet
        :raises ConfigError: more have been added than there are devices
        :raises HostError: see :func:`take_over`
        """
        if self._namespace and in_namespace(self._namespace, self._adopt_here):
            self._namespace = ""
            self.readdress(readdress)
            self.configure(agent)

    def move(self, namespace: str) -> None:
        """Move the spare devices to another network namespace.

        :param namespace: its path
        :raises ConfigError: it has more interfaces than there are devices
        :raises HostError: see :func:`take_over`
        """
        most = len(self.nets)
        if not in_namespace(namespace, lambda: count_interfaces() <= most):
            raise ConfigError(f"network namespace {namespace} has more than {most} interfaces", code="oci-network")
        target = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with Rtnetlink() as route:
                for number in range(most):
                    route.move(route.find(f"{TAP_PREFIX}{number}"), target)
        finally:
            os.close(target)
        self._namespace = namespace

    def _adopt_here(self) -> bool:
        if not has_interfaces():
            return False
        taps = [f"{TAP_PREFIX}{number}" for number in range(len(self.nets))]
        with Rtnetlink() as route:
            found = list(_interfaces(route, taps))
            if len(found) > len(taps):
                names = ", ".join(interface.name for _, interface in found)
                raise ConfigError(
                    f"the network namespace has got {names} since the container was created, and room for {len(taps)}",
                    code="oci-network",
                    hint="make the namespace and its interfaces first, and name it in config.json",
                )
            for tap, (index, interface) in zip(taps, found, strict=False):
                _redirect(route, index, tap, interface.mtu)
                if interface.is_tap:
                    _lead_in(route, tap, interface)
        self.interfaces = tuple(interface for _, interface in found)
        return bool(found)

    def configure(self, agent: AgentClient) -> None:
        """Connect the guest to it."""
        for interface in self.interfaces:
            interface.tell(agent)
        if routes := [message for each in self.interfaces for message in each.route_messages()]:
            agent.update_routes(routes)
        if neighbors := [message for each in self.interfaces for message in each.neighbor_messages()]:
            agent.add_neighbors(neighbors)


def user_network(published: Sequence[Publish] = ()) -> Network:
    """A network without privileges, by passt, in the namespace of the process that makes the machine.

    The guest has the address and the gateway that passt assigns, which are the host's (passt(1), "--address").

    :raises HostError: the host has no default route
    """
    address, gateway = _default_address()
    interface = Interface("eth0", USER_MAC, 0, (address,), (Route("", gateway, "", 0, 0),))
    return Network([interface], [NetConfig("user", mac=USER_MAC, publish=tuple(published))])


def _default_address() -> tuple[Address, str]:
    """The address of the interface that the default route leads out of, and its gateway (IPv4; proc_net(5))."""
    with open("/proc/thread-self/net/route") as lines:
        routes = [line.split() for line in lines][1:]
    defaults = sorted((int(row[6]), row[0], row[2]) for row in routes if row[1] == row[7] == "00000000")
    if not defaults:
        raise HostError(
            "user networking needs a default route of the host", code="oci-network", hint="or --network none"
        )
    _, name, gateway = defaults[0]
    request = struct.pack("16s24x", name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        own, mask = (fcntl.ioctl(sock.fileno(), number, request)[20:24] for number in (_SIOCGIFADDR, _SIOCGIFNETMASK))
    prefix = int.from_bytes(mask, "big").bit_count()
    return Address(socket.inet_ntoa(own), prefix), socket.inet_ntoa(bytes.fromhex(gateway)[::-1])


# -- namespaces ------------------------------------------------------------------------------------------------------


def enter(path: str) -> None:
    """Move this thread, and its future children, into the network namespace at *path*; empty: a new one.

    :raises ConfigError: there is none
    :raises HostError: CAP_SYS_ADMIN is missing
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not path:
        _check(libc.unshare(CLONE_NEWNET), "a network namespace")
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"network namespace {path}: {error.strerror}", code="oci-network") from error
    try:
        _check(libc.setns(fd, CLONE_NEWNET), f"network namespace {path}")
    finally:
        os.close(fd)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise HostError(f"{what}: {os.strerror(number)}", code="oci-network", errno=number)


def in_namespace(path: str, work: Callable[[], Result]) -> Result:
    """Run a function in a thread of its own in the network namespace at *path*, together with the children that it
    starts."""
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            enter(path)
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="network")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def has_interfaces() -> bool:
    """Whether there is more than a loopback interface."""
    return count_interfaces() > 0


def count_interfaces() -> int:
    """How many interfaces there are, up or not, besides loopback and ours."""
    return sum(name != "lo" and not name.startswith(TAP_PREFIX) for _, name in socket.if_nameindex())


# -- taking over -----------------------------------------------------------------------------------------------------


def take_again(nets: Sequence[KeptNet]) -> Network:
    """As :func:`take_over`, for a copy of a machine with exactly these devices.

    :raises ConfigError: this namespace has more interfaces
    """
    network = take_over()
    if len(network.nets) > len(nets):
        network.release()
        raise ConfigError(
            f"the network namespace has {len(network.nets)} interfaces, and the container that was checkpointed "
            f"{len(nets)}",
            code="oci-network",
            hint="attach it to as many networks",
        )
    if len(network.nets) == len(nets):
        return network
    blank, keepers = _taps([net.mac for net in nets[len(network.nets) :]], len(network.nets))
    return Network(network.interfaces, [*network.nets, *blank], [*network.take_keepers(), *keepers])


def take_over(late: str = "", spares: int = 1) -> Network:
    """Connect this namespace: a tap device for each of its Ethernet interfaces that are up.

    :param late: the path of this namespace, if interfaces may be added after the machine's start (CNI of ``ctr run``,
        podman's networks of containers with a user namespace)
    :param spares: how many of them
    :raises HostError: CAP_NET_ADMIN is missing, or the kernel has no tap devices or *mirred*
    :raises ConfigError: another machine has taken it over
    """
    if not has_interfaces():
        # Who may not make tap devices has no CNI either
        return _spare(late, spares) if late and os.access(_TUN, os.R_OK | os.W_OK) else Network((), ())
    keepers: list[int] = []
    try:
        with Rtnetlink() as route:
            found = list(_interfaces(route))
            for number, (index, interface) in enumerate(found):
                name = f"{TAP_PREFIX}{number}"
                keepers.append(_make_tap(name, interface.name))
                _redirect(route, index, name, interface.mtu)
                if interface.is_tap:
                    _lead_in(route, name, interface)
    except BaseException:
        _close_all(keepers)
        raise
    nets = [
        NetConfig("tap", f"{TAP_PREFIX}{number}", mac=interface.mac, mtu=interface.mtu)
        for number, (_, interface) in enumerate(found)
    ]
    return Network([interface for _, interface in found], nets, keepers)


def _spare(namespace: str, count: int) -> Network:
    """Devices that are not connected yet."""
    macs = [":".join(f"{byte:02x}" for byte in (2, *os.urandom(5))) for _ in range(count)]
    nets, keepers = _taps(macs)
    return Network((), nets, keepers, namespace=namespace)


def _taps(macs: Sequence[str], first: int = 0) -> tuple[list[NetConfig], list[int]]:
    keepers: list[int] = []
    nets = []
    try:
        for number, mac in enumerate(macs, first):
            name = f"{TAP_PREFIX}{number}"
            keepers.append(_make_tap(name, "an interface to come"))
            # The guest's driver takes no MTU above that of the device: it gets the interface's when that has come
            nets.append(NetConfig("tap", name, mac=mac, mtu=MAX_MTU))
    except BaseException:
        _close_all(keepers)
        raise
    return nets, keepers


def blank(macs: Sequence[str]) -> tuple[list[NetConfig], list[int]]:
    """Unconnected devices with these MAC addresses, in this thread's empty network namespace; and the descriptors that
    keep them.

    :raises HostError: without the right to (CAP_NET_ADMIN)
    """
    return _taps(macs)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _interfaces(route: Rtnetlink, own: Sequence[str] = ()) -> Iterator[tuple[int, Interface]]:
    """(index, Interface) of each Ethernet interface that is up, except the tap devices *own*."""
    addresses, neighbors, routes = route.addresses(), route.neighbors(), route.routes()
    for link in route.links():
        if link.name.startswith(TAP_PREFIX) and link.name not in own:
            raise ConfigError(
                f"the network namespace has a device {link.name}: another machine has taken it over",
                code="oci-network",
                hint="one machine for each pod: its containers share it, not the namespace",
            )
        if link.type != _ETHERNET or not link.is_up or not link.mac or link.name in own:
            continue
        index = link.device
        yield (
            index,
            Interface(
                link.name,
                link.mac,
                link.mtu,
                tuple(
                    Address(each.text, each.prefix)
                    for each in addresses
                    if each.device == index and each.scope != rtnetlink.SCOPE_LINK
                ),
                tuple(
                    Route(
                        each.dest,
                        each.gateway,
                        each.source,
                        each.scope,
                        int(each.family == socket.AF_INET6),
                        each.metric,
                    )
                    for each in routes
                    if each.device == index
                ),
                tuple(
                    Neighbor(each.address, each.mac, each.state)
                    for each in neighbors
                    if each.device == index and each.state & rtnetlink.PERMANENT and each.mac
                ),
                link.kind == "tun",
            ),
        )


def _make_tap(name: str, beside: str) -> int:
    """A tap device that exists while this descriptor, or the machine's, is open."""
    try:
        fd = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{_TUN}: {error.strerror}", code="oci-network", hint="modprobe tun") from error
    try:
        flags = _TAP | _NO_PI | _VNET_HDR | _MULTI_QUEUE
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        # This queue is not read: without the detach, the kernel would send a part of the frames to it
        fcntl.ioctl(fd, _TUNSETQUEUE, struct.pack("16sH22x", b"", _DETACH_QUEUE))
    except OSError as error:
        os.close(fd)
        raise HostError(
            f"a tap device beside {beside}: {error.strerror}", code="oci-network", errno=error.errno or 0
        ) from error
    return fd


def _redirect(route: Rtnetlink, index: int, tap: str, mtu: int) -> None:
    """Forward frames from each one to the other."""
    other = route.find(tap)
    try:
        with open(f"/proc/sys/net/ipv6/conf/{tap}/disable_ipv6", "w") as switch:
            switch.write("1")  # messages of this stack (router solicitations) would reach the guest
    except OSError:
        pass  # a kernel without IPv6, or a /proc that is read-only
    route.start(other, mtu)
    for one, two in ((index, other), (other, index)):
        with contextlib.suppress(HostError):  # there is none: that of a machine that was killed is replaced
            route.remove_ingress(one)
        route.add_ingress(one)
        route.redirect(one, two, _ALL)


# -- connections that programs of the host make in the namespace -----------------------------------------------------
#
# pasta and slirp4netns, which make a network for a user without rights, have the other end of a tap device in that
# namespace.  A connection from the host itself to a published port does not come through it: they, or podman's
# rootlessport, dial the container's address from a socket in the namespace, where a container of runc's would listen.
# So that address leads to the guest: by a rule before the table of local addresses, out of the machine's tap device.
# The answers to the one address that such connections come from are kept for the namespace's stack; all else that the
# guest sends goes to the other device, as everywhere.
#
# IPv4 only.  The route is removed with the tap device, and the rule has no effect without it.

PLACE = "169.254.86.77"
"""Where such connections come from, as the guest sees them."""
_TABLE = 8677
_RULE, _RULE_LOCAL = 1, 2
"""Priorities: the table of local addresses is at 0 otherwise."""


def _lead_in(route: Rtnetlink, tap: str, interface: Interface) -> None:
    """Route packets of this namespace's own stack for the interface's addresses to the guest."""
    own = [address.text for address in interface.addresses if not address.family]
    if not own:
        return
    index = route.find(tap)
    try:
        route.keep(index, PLACE, _LEAD)  # the guest sends it to its gateway's MAC address
        route.add_address(index, PLACE, 32)
        for address in own:
            route.set_neighbor(index, address, interface.mac)
            route.set_route(index, address, PLACE, _TABLE)
        with _as_it_was_left():
            route.add_rule(_RULE_LOCAL, rtnetlink.TABLE_LOCAL)
        with _as_it_was_left():
            route.remove_rule(0, rtnetlink.TABLE_LOCAL)
        for address in own:
            with _as_it_was_left():
                route.add_rule(_RULE, _TABLE, address)
    except HostError:
        pass  # published ports are then answered to other hosts, not to this one: the kernel has no act_skbedit


@contextlib.contextmanager
def _as_it_was_left() -> Iterator[None]:
    """An earlier machine may have left such a rule."""
    try:
        yield
    except HostError as error:
        if error.errno not in (ENOENT, EEXIST):
            raise
