"""Connections to the container's own address that programs of the host make inside of its network namespace.

pasta and slirp4netns, which make a network for a user without rights, have the other end of a tap device in that
namespace.  A connection from the host itself to a published port does not come through it: they, or podman's
rootlessport, dial the container's address from a socket in the namespace, where a container of runc's would listen.  So
that address leads to the guest: by a rule before the table of local addresses, out of the machine's tap device.  The
answers to the one address that such connections come from are kept for the namespace's stack; all else that the guest
sends goes to the other device, as everywhere.

IPv4 only.  The route is removed with the tap device, and the rule has no effect without it.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

PLACE = "169.254.86.77"
"""Where such connections come from, as the guest sees them."""
_TABLE, _TABLE_LOCAL = 8677, 255
_RULE, _RULE_LOCAL = 1, 2
"""Priorities: the table of local addresses is at 0 otherwise."""
_INGRESS, _IP, _PERMANENT, _SCOPE_LINK = 0xFFFF0000, 0x0800, 0x80, 253


def lead_in(route: Any, tap: int, addresses: Sequence[str], mac: str) -> None:
    """Lead what this namespace's own stack has for *addresses* to the guest.

    :param route: pyroute2's ``IPRoute``
    :param tap: number of the machine's tap device, which has an ingress qdisc
    :param mac: the guest's
    :raises NetlinkError: the kernel cannot (``act_skbedit``)
    """
    own = [address for address in addresses if ":" not in address]
    if not own:
        return
    place = int.from_bytes(socket.inet_aton(PLACE), "big")
    route.tc(
        "add-filter",
        "u32",
        index=tap,
        parent=_INGRESS,
        prio=1,
        protocol=_IP,
        target=0x10000,
        keys=[f"0x{place:08x}/0xffffffff+16"],
        # The guest sends it to its gateway's MAC address
        action=[{"kind": "skbedit", "ptype": "host"}, {"kind": "gact", "action": "ok"}],
    )
    route.addr("add", index=tap, address=PLACE, prefixlen=32, scope=_SCOPE_LINK)
    for address in own:
        route.neigh("replace", dst=address, lladdr=mac, ifindex=tap, state=_PERMANENT)
        route.route(
            "replace", dst=address, dst_len=32, oif=tap, prefsrc=PLACE, table=_TABLE, scope=_SCOPE_LINK, proto="static"
        )
    _rule(route, "add", priority=_RULE_LOCAL, table=_TABLE_LOCAL)
    _rule(route, "del", priority=0, table=_TABLE_LOCAL)
    for address in own:
        _rule(route, "add", priority=_RULE, dst=address, dst_len=32, table=_TABLE)


def _rule(route: Any, verb: str, **fields: Any) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        route.rule(verb, family=socket.AF_INET, **fields)
    except NetlinkError as error:
        if error.code not in (2, 17):  # ENOENT, EEXIST: as a machine before us has left it
            raise
