"""The interfaces, addresses, routes and traffic control of a network namespace (rtnetlink(7)), as far as a pod needs
them.

Packages for that import all of netlink, which took longer than the start of a machine.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/netlink.h
_REQUEST, _ACK, _DUMP, _REPLACE, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
_ERROR, _DONE, _INTERRUPTED = 2, 3, 0x10
_FLAGS_OF_TYPE = 0xC000
# linux/rtnetlink.h
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 18, 20, 22
_NEWROUTE, _GETROUTE, _NEWNEIGH, _GETNEIGH = 24, 26, 28, 30
_NEWRULE, _DELRULE, _NEWQDISC, _DELQDISC, _NEWTFILTER = 32, 33, 36, 37, 44
_TYPE_UNICAST, _PROTO_KERNEL, _PROTO_STATIC = 1, 2, 4
TABLE_MAIN, TABLE_LOCAL = 254, 255
SCOPE_LINK = 253
PERMANENT = 0x80
"""The state of a neighbour that is not asked for (linux/neighbour.h)."""
IPV4, ALL_PROTOCOLS = 0x0800, 0x0003
_IFF_UP = 1
# linux/if_link.h, if_addr.h, rtnetlink.h, neighbour.h, fib_rules.h
_IFLA_ADDRESS, _IFLA_NAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 1, 3, 4, 18, 28, 29
_INFO_KIND, _SKIP_STATS = 1, 0x8
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_NDA_DST, _NDA_LLADDR = 1, 2
_FRA_DST, _FRA_PRIORITY, _FRA_TABLE, _TO_TABLE = 1, 6, 15, 1
# linux/pkt_sched.h, pkt_cls.h, tc_act/*.h
_INGRESS, _PARENT_INGRESS = 0xFFFF0000, 0xFFFFFFF1
_TCA_KIND, _TCA_OPTIONS = 1, 2
_U32_SELECTOR, _U32_ACTIONS, _U32_TERMINAL = 5, 7, 1
_ACT_KIND, _ACT_OPTIONS, _ACT_PARAMETERS = 1, 2, 2
_OK, _PIPE, _STOLEN, _EGRESS_REDIRECT = 0, 3, 4, 1
_SKBEDIT_PTYPE, _PACKET_HOST = 7, 0

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK, _ADDRESS, _ROUTE, _NEIGHBOR = (struct.Struct(f"={form}") for form in ("BxHiII", "4BI", "8BI", "BxxxiHBB"))
_RULE, _TRAFFIC = struct.Struct("=8BI"), struct.Struct("=BxxxiIII")
_ACTION = struct.Struct("=IIiii")
_MOST = 1 << 16
"""Bytes of one message of the kernel's."""
_TRIES = 10
"""What changes while it is listed is listed again."""

Attributes = dict[int, bytes]


class Link(NamedTuple):
    """An interface.

    :ivar device: its number
    :ivar type: of ``ARPHRD_*``
    :ivar mac: empty: it has none
    :ivar kind: type of the driver; empty: a hardware device
    """

    device: int
    name: str
    mac: str
    mtu: int
    type: int
    is_up: bool
    kind: str


class Address(NamedTuple):
    """An address of an interface."""

    device: int
    text: str
    prefix: int
    scope: int


class Route(NamedTuple):
    """An added route to other hosts, in the main table; empty: it has no such address."""

    device: int
    dest: str
    gateway: str
    source: str
    scope: int
    family: int
    metric: int


class Neighbor(NamedTuple):
    """A neighbour; *mac* is empty if it is not known."""

    device: int
    address: str
    mac: str
    state: int


class Rtnetlink:
    """A socket to the kernel, for the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._number = 0

    def __enter__(self) -> Rtnetlink:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sock.close()

    # -- what there is -----------------------------------------------------------------------------------------------

    def links(self) -> list[Link]:
        """All interfaces."""
        found = []
        mask = _attribute(_IFLA_EXT_MASK, _number(_SKIP_STATS))
        for content in self._dump(_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + mask):
            _, kind, index, flags, _ = _LINK.unpack_from(content)
            has = _attributes(content, _LINK.size)
            info = _attributes(has.get(_IFLA_LINKINFO, b""), 0)
            mtu = int.from_bytes(has.get(_IFLA_MTU, b""), "little")
            name, mac = _text(has[_IFLA_NAME]), has.get(_IFLA_ADDRESS, b"").hex(":")
            found.append(Link(index, name, mac, mtu, kind, bool(flags & _IFF_UP), _text(info.get(_INFO_KIND, b""))))
        return found

    def find(self, name: str) -> int:
        """The number of an interface.

        :raises HostError: there is no interface of that name
        """
        content = _LINK.pack(0, 0, 0, 0, 0) + _attribute(_IFLA_NAME, name.encode() + b"\0")
        self._send(_GETLINK, 0, content + _attribute(_IFLA_EXT_MASK, _number(_SKIP_STATS)))
        _, _, answer = next(self._answers())
        return int(_LINK.unpack_from(answer)[2])

    def addresses(self) -> list[Address]:
        """All addresses of all interfaces."""
        found = []
        for content in self._dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
            family, prefix, _, scope, index = _ADDRESS.unpack_from(content)
            has = _attributes(content, _ADDRESS.size)
            packed = has.get(_IFA_LOCAL) or has.get(_IFA_ADDRESS)
            if packed and _is_internet(family):
                found.append(Address(index, socket.inet_ntop(family, packed), prefix, scope))
        return found

    def routes(self) -> list[Route]:
        """Routes of the main table through one interface, except those that came with an address."""
        found = []
        for content in self._dump(_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)):
            family, length, _, _, table, maker, scope, kind, _ = _ROUTE.unpack_from(content)
            has = _attributes(content, _ROUTE.size)
            if _RTA_TABLE in has:
                table = int.from_bytes(has[_RTA_TABLE], "little")
            if table != TABLE_MAIN or maker == _PROTO_KERNEL or kind != _TYPE_UNICAST or not _is_internet(family):
                continue
            dest, gateway, source = (
                socket.inet_ntop(family, has[which]) if which in has else ""
                for which in (_RTA_DST, _RTA_GATEWAY, _RTA_PREFSRC)
            )
            index, metric = (int.from_bytes(has.get(which, b""), "little") for which in (_RTA_OIF, _RTA_PRIORITY))
            found.append(Route(index, f"{dest}/{length}" if dest else "", gateway, source, scope, family, metric))
        return found

    def neighbors(self) -> list[Neighbor]:
        """All neighbours of all interfaces."""
        found = []
        for content in self._dump(_GETNEIGH, _NEIGHBOR.pack(0, 0, 0, 0, 0)):
            family, index, state, _, _ = _NEIGHBOR.unpack_from(content)
            has = _attributes(content, _NEIGHBOR.size)
            if _NDA_DST in has and _is_internet(family):
                mac = has.get(_NDA_LLADDR, b"").hex(":")
                found.append(Neighbor(index, socket.inet_ntop(family, has[_NDA_DST]), mac, state))
        return found

    # -- what is changed: each raises HostError, with its number, when the kernel refuses it -------------------------

    def start(self, index: int, mtu: int) -> None:
        """Set an interface up, with that MTU."""
        self._change(_NEWLINK, _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP) + _attribute(_IFLA_MTU, _number(mtu)))

    def move(self, index: int, namespace: int) -> None:
        """Move an interface into the network namespace of a descriptor."""
        self._change(_NEWLINK, _LINK.pack(0, 0, index, 0, 0) + _attribute(_IFLA_NET_NS_FD, _number(namespace)))

    def add_address(self, index: int, address: str, prefix: int) -> None:
        """Add an address (IPv4) for its link to an interface."""
        content = _ADDRESS.pack(socket.AF_INET, prefix, 0, SCOPE_LINK, index)
        content += b"".join(_attribute(which, socket.inet_aton(address)) for which in (_IFA_LOCAL, _IFA_ADDRESS))
        self._change(_NEWADDR, content, _CREATE | _EXCLUSIVE)

    def set_neighbor(self, index: int, address: str, mac: str) -> None:
        """Add a permanent neighbour entry (IPv4)."""
        content = _NEIGHBOR.pack(socket.AF_INET, index, PERMANENT, 0, 0)
        content += _attribute(_NDA_DST, socket.inet_aton(address)) + _attribute(_NDA_LLADDR, _mac(mac))
        self._change(_NEWNEIGH, content, _CREATE | _REPLACE)

    def set_route(self, index: int, address: str, source: str, table: int) -> None:
        """Add a route for one address (IPv4) on the link of an interface, in that table."""
        content = _ROUTE.pack(socket.AF_INET, 32, 0, 0, 0, _PROTO_STATIC, SCOPE_LINK, _TYPE_UNICAST, 0)
        content += _attribute(_RTA_DST, socket.inet_aton(address)) + _attribute(_RTA_PREFSRC, socket.inet_aton(source))
        content += _attribute(_RTA_OIF, _number(index)) + _attribute(_RTA_TABLE, _number(table))
        self._change(_NEWROUTE, content, _CREATE | _REPLACE)

    def add_rule(self, priority: int, table: int, address: str = "") -> None:
        """Add a rule that looks up a table (IPv4), for one address or for all."""
        self._change(_NEWRULE, _rule(priority, table, address), _CREATE | _EXCLUSIVE)

    def remove_rule(self, priority: int, table: int) -> None:
        """Remove the first such rule."""
        self._change(_DELRULE, _rule(priority, table, ""))

    def add_ingress(self, index: int) -> None:
        """Add the queueing discipline for filters of arriving packets to an interface."""
        self._change(_NEWQDISC, _ingress(index), _CREATE | _EXCLUSIVE)

    def remove_ingress(self, index: int) -> None:
        """Remove that, with its filters."""
        self._change(_DELQDISC, _ingress(index))

    def redirect(self, index: int, other: int, priority: int) -> None:
        """Forward packets that arrive at one interface to the other."""
        mirred = _ACTION.pack(0, 0, _STOLEN, 0, 0) + struct.pack("=iI", _EGRESS_REDIRECT, other)
        self._add_filter(index, priority, ALL_PROTOCOLS, (0, 0, 0), _action(1, "mirred", mirred))

    def keep(self, index: int, address: str, priority: int) -> None:
        """Accept packets that arrive at an interface for that address (IPv4), whatever their MAC address."""
        host = _attribute(_SKBEDIT_PTYPE, struct.pack("=H", _PACKET_HOST))
        actions = _action(1, "skbedit", _ACTION.pack(0, 0, _PIPE, 0, 0), host)
        actions += _action(2, "gact", _ACTION.pack(0, 0, _OK, 0, 0))
        wanted = int.from_bytes(socket.inet_aton(address), "big")
        self._add_filter(index, priority, IPV4, (0xFFFFFFFF, wanted, 16), actions)

    def _add_filter(self, index: int, priority: int, protocol: int, key: tuple[int, int, int], actions: bytes) -> None:
        """
        :param key: mask, value and offset of a word of the packet
        """
        selector = struct.pack("=BBBxHHhhI", _U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + struct.pack(">II", *key[:2])
        selector += struct.pack("=ii", key[2], 0)
        content = _TRAFFIC.pack(0, index, 0, _INGRESS, priority << 16 | socket.htons(protocol))
        content += _attribute(_TCA_KIND, b"u32\0")
        content += _attribute(_TCA_OPTIONS, _attribute(_U32_ACTIONS, actions) + _attribute(_U32_SELECTOR, selector))
        self._change(_NEWTFILTER, content, _CREATE | _EXCLUSIVE)

    # -- messages ----------------------------------------------------------------------------------------------------

    def _send(self, kind: int, flags: int, content: bytes) -> None:
        self._number += 1
        self._sock.send(_HEADER.pack(_HEADER.size + len(content), kind, flags | _REQUEST, self._number, 0) + content)

    def _answers(self) -> Iterator[tuple[int, int, bytes]]:
        """Type, flags and content of each message that answers the last request."""
        while True:
            data = self._sock.recv(_MOST)
            at = 0
            while at + _HEADER.size <= len(data):
                size, kind, flags, number, _ = _HEADER.unpack_from(data, at)
                content = data[at + _HEADER.size : at + size]
                if number == self._number:
                    if kind == _ERROR and (error := -int.from_bytes(content[:4], "little", signed=True)):
                        raise HostError(f"network: {os.strerror(error)}", code="oci-network", errno=error)
                    yield kind, flags, content
                at += max(size + 3 & ~3, _HEADER.size)

    def _change(self, kind: int, content: bytes, flags: int = 0) -> None:
        self._send(kind, flags | _ACK, content)
        next(self._answers())

    def _dump(self, kind: int, content: bytes) -> list[bytes]:
        for _ in range(_TRIES):
            found = []
            interrupted = False
            self._send(kind, _DUMP, content)
            for answer, flags, each in self._answers():
                interrupted = interrupted or bool(flags & _INTERRUPTED)
                if answer == _DONE:
                    break
                found.append(each)
            if not interrupted:
                return found
        raise HostError("network: the namespace changes all the time", code="oci-network")


def _attributes(content: bytes, at: int) -> Attributes:
    """By their types."""
    found = {}
    while at + _ATTRIBUTE.size <= len(content):
        size, kind = _ATTRIBUTE.unpack_from(content, at)
        found[kind & ~_FLAGS_OF_TYPE] = content[at + _ATTRIBUTE.size : at + size]
        at += max(size + 3 & ~3, _ATTRIBUTE.size)
    return found


def _attribute(kind: int, content: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(content), kind) + content + bytes(-len(content) % 4)


def _number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _text(content: bytes) -> str:
    return os.fsdecode(content.rstrip(b"\0"))


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _is_internet(family: int) -> bool:
    return family in (socket.AF_INET, socket.AF_INET6)


def _rule(priority: int, table: int, address: str) -> bytes:
    short = table if table <= TABLE_LOCAL else 0
    content = _RULE.pack(socket.AF_INET, 32 if address else 0, 0, 0, short, 0, 0, _TO_TABLE, 0)
    content += _attribute(_FRA_PRIORITY, _number(priority)) + _attribute(_FRA_TABLE, _number(table))
    return content + (_attribute(_FRA_DST, socket.inet_aton(address)) if address else b"")


def _ingress(index: int) -> bytes:
    return _TRAFFIC.pack(0, index, _INGRESS, _PARENT_INGRESS, 0) + _attribute(_TCA_KIND, b"ingress\0")


def _action(order: int, kind: str, parameters: bytes, more: bytes = b"") -> bytes:
    """One of a filter's actions."""
    options = _attribute(_ACT_PARAMETERS, parameters) + more
    return _attribute(order, _attribute(_ACT_KIND, kind.encode() + b"\0") + _attribute(_ACT_OPTIONS, options))
