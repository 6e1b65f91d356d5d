"""The network namespace of a sandbox, which leads to the gateway's sockets and nowhere else."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import NamedTuple

from pyvmm_kata.pod import network
from pyvmm_sandbox.errors import SandboxError

_STREAMS, _QUERIES = 3128, 5353
_BACKLOG = 256
_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
# passt takes the addresses of the interface with the default route, and makes its connections from it.  Nothing is at
# the other end: a packet that is not redirected is lost even without the second chain.
_LINKS = """\
link set lo up
link add eth0 type veth peer name end
link set end up
link set eth0 up
addr add 10.0.2.15/24 dev eth0
route add default via 10.0.2.2
"""
_LINKS_6 = """\
addr add fd00:2::15/64 dev eth0 nodad
route add ::/0 via fd00:2::2
"""
_RULES = f"""\
table inet pyvmm {{
    chain redirected {{
        type nat hook output priority -100
        udp dport 53 redirect to :{_QUERIES}
        tcp dport 53 redirect to :{_QUERIES}
        meta l4proto tcp redirect to :{_STREAMS}
    }}
    chain others {{
        type filter hook output priority 0; policy drop
        oif "lo" accept
        ip daddr 127.0.0.0/8 accept
        ip6 daddr ::1 accept
    }}
}}
"""


class Sockets(NamedTuple):
    """What listens in the namespace.

    :ivar namespace: a descriptor of it
    :ivar streams: all TCP connections but those to a resolver arrive there
    :ivar query_streams: TCP connections to any resolver
    :ivar queries: datagrams to any resolver
    """

    namespace: int
    streams: list[socket.socket]
    query_streams: list[socket.socket]
    queries: list[socket.socket]


def make() -> Sockets:
    """Make a namespace.

    :raises VmmError: the right to make one, or a program, is missing
    """
    return network.in_namespace("", _make_here)


def _make_here() -> Sockets:
    has_6 = os.path.exists("/proc/net/if_inet6")
    _run("ip", "iproute2", _LINKS + (_LINKS_6 if has_6 else ""), "-batch", "-")
    _run("nft", "nftables", _RULES, "-f", "-")
    made = Sockets(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), [], [], [])
    for family, address in _LOOPBACK if has_6 else _LOOPBACK[:1]:
        for port, found in ((_STREAMS, made.streams), (_QUERIES, made.query_streams)):
            found.append(socket.create_server((address, port), family=family, backlog=_BACKLOG))
            found[-1].setblocking(False)
        made.queries.append(socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK))
        made.queries[-1].bind((address, _QUERIES))
    return made


def _run(name: str, package: str, text: str, *words: str) -> None:
    program = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise SandboxError(f"network rules need {name}, which is not installed", hint=f"apt-get install {package}")
    done = subprocess.run([program, *words], input=text, capture_output=True, text=True)
    if done.returncode:
        raise SandboxError(f"{name}: {done.stderr.strip()[:300]}", hint="modprobe nf_tables; modprobe veth")
