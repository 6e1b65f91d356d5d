"""virtio-net: networks (virtio 1.2, 5.1): its record, and its text form."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass, replace
from vmm.options.limit import LimitConfig, parse_limit
from vmm.options.syntax import Key, Syntax, number, word
from vmm.virtio.device_config import DeviceConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.device_config import Opening

KINDS = ("tap", "user")
BACKENDS = ("worker", "vhost")
MAX_QUEUES = 16
MIN_MTU, MAX_MTU = 68, 65535
USAGE = "--net tap=NAME or --net user, then options with commas between: see pyvmm boot --help"


@dataclass(frozen=True)
class Publish:
    """A port of the host that leads to one of the guest.

    :ivar host: port of the host
    :ivar guest: port of the guest
    :ivar protocol: ``tcp`` or ``udp``
    :ivar address: address of the host to listen on; empty: all of them
    """

    host: int
    guest: int
    protocol: str = "tcp"
    address: str = ""

    def __post_init__(self) -> None:
        if not (0 < self.host < 1 << 16 and 0 < self.guest < 1 << 16):
            raise ConfigError(f"publish {self.host}:{self.guest}: ports are 1 to 65535", code="net-publish")
        if self.protocol not in ("tcp", "udp"):
            raise ConfigError(f"publish: {self.protocol!r} is neither tcp nor udp", code="net-publish")
        if self.address and not all(c in "0123456789abcdefABCDEF.:" for c in self.address):
            raise ConfigError(f"publish: {self.address!r} is not an IP address", code="net-publish")

    @classmethod
    def parse(cls, text: str) -> Publish:
        """Parse ``[ADDRESS:]HOST:GUEST[/udp]``; an IPv6 address is in brackets.

        :raises ConfigError: not such a text
        """
        rest, slash, protocol = text.partition("/")
        *address, host, guest = ["", *rest.rsplit(":", 2)] if rest.count(":") < 2 else rest.rsplit(":", 2)
        plain = [part.isascii() and part.isdigit() and len(part) < 6 for part in (host, guest)]
        if plain != [True, True] or (slash and protocol not in ("tcp", "udp")):
            raise ConfigError(
                f"publish={text}: not [ADDRESS:]HOST:GUEST[/udp]",
                code="net-publish",
                hint="for example publish=8080:80",
            )
        return cls(int(host), int(guest), protocol or "tcp", "".join(address).strip("[]"))


def _publish(text: str, _what: str) -> Publish:
    return Publish.parse(text)


@dataclass(frozen=True)
class NetConfig(DeviceConfig):
    """A virtio-net device.

    :ivar kind: ``tap``: a tap device that exists; ``user``: a network of the guest's own, through ``passt``, without
        privileges
    :ivar tap: name of the tap device
    :ivar mac: the guest's address, ``02:00:00:00:00:01``; empty: a constant one, see :mod:`vmm.virtio.net.device`
    :ivar queues: pairs of queues, each with a thread; more than one needs a tap device with ``multi_queue``
    :ivar mtu: bytes; 0: that of the tap device, or the best one for ``passt``
    :ivar publish: ports of the host that lead into the guest; ``user`` only
    :ivar limit: of each direction, or None
    :ivar responder: a path: frames for ``responder_address`` go to the program that listens at this unix socket
        (``SOCK_SEQPACKET``) instead of the tap device. It gets and sends frames behind headers of 12 bytes (5.1.6.1)
    :ivar responder_address: an IPv4 address: ARP requests for it, and TCP to it
    :ivar backend: what serves the queues of a tap device: ``worker``, a thread for each pair, or ``vhost``: the host's
        kernel, through ``/dev/vhost-net``, without limits
    """

    kind: str
    tap: str = ""
    mac: str = ""
    queues: int = 1
    mtu: int = 0
    publish: tuple[Publish, ...] = ()
    limit: LimitConfig | None = None
    backend: str = "worker"
    responder: str = ""
    responder_address: str = ""

    def __post_init__(self) -> None:
        problem, hint = "", ""
        if self.kind not in KINDS:
            problem = f"{self.kind!r} is not one of {', '.join(KINDS)}"
        elif (self.kind == "tap") != bool(self.tap):
            problem = "tap needs the name of a tap device" if self.kind == "tap" else "user has no tap device"
        elif self.kind == "tap" and (len(self.tap.encode()) > 15 or "/" in self.tap or not self.tap.isprintable()):
            problem = f"{self.tap!r} is not the name of an interface (up to 15 bytes)"
        elif not 1 <= self.queues <= MAX_QUEUES:
            problem = f"{self.queues} queues, not 1 to {MAX_QUEUES}"
        elif self.kind == "user" and self.queues > 1:
            problem = "user networking has one pair of queues"
        elif self.kind == "tap" and self.publish:
            problem, hint = "publish is of user networking", "a guest at a tap device is reached by its own address"
        elif self.backend not in BACKENDS:
            problem = f"backend={self.backend!r} is not one of {', '.join(BACKENDS)}"
        elif self.mtu and not MIN_MTU <= self.mtu <= MAX_MTU:
            problem = f"mtu {self.mtu} is not {MIN_MTU} to {MAX_MTU}"
        elif bool(self.responder) != bool(self.responder_address):
            problem = "a responder has a path and an address"
        elif self.responder and (self.queues > 1 or self.backend == "vhost"):
            problem = "a responder needs one pair of queues and backend=worker"
        elif self.backend == "vhost" and self.kind == "user":
            problem, hint = "backend=vhost is of tap devices", "passt needs backend=worker"
        elif self.backend == "vhost" and self.limit is not None:
            problem = "backend=vhost has no limits: rate= and pps= need backend=worker"
            hint = "or limit the tap device itself, with tc"
        if problem:
            raise ConfigError(f"net: {problem}", code="net-config", hint=hint or USAGE)
        if self.mac:
            self.mac_bytes()

    def mac_bytes(self) -> bytes:
        """The 6 bytes of ``mac``, which is not empty.

        :raises ConfigError: not a valid address of an interface
        """
        parts = self.mac.split(":")
        try:
            value = bytes(int(part, 16) for part in parts if 0 < len(part) < 3)
        except ValueError:
            value = b""
        if len(value) != 6 or len(parts) != 6 or value[0] & 1 or not any(value):
            raise ConfigError(
                f"net: mac {self.mac!r} is not the address of a host",
                code="net-mac",
                hint="six bytes, the first even: mac=02:00:00:00:00:01",
            )
        return value

    @classmethod
    def parse(cls, text: str, flag: str = "--net") -> NetConfig:
        """Parse :data:`SYNTAX`; the first item is ``tap=NAME`` or ``user``.

        :raises ConfigError: an unknown option, or an invalid value
        """
        first = text.split(",")[0]
        kind, _, _ = first.partition("=")
        if kind not in KINDS or (kind == "user" and first != "user"):
            hint = SYNTAX.usage(flag)
            raise ConfigError(f"{flag} {text!r}: neither tap=NAME, user, nor none", code="net-syntax", hint=hint)
        values = SYNTAX.parse(text, flag)
        values.pop("user", None)
        limit = parse_limit(values.pop("rate", ""), values.pop("pps", ""), f"{flag} {text!r}")
        return cls(kind, publish=tuple(values.pop("publish", ())), limit=limit, **values)

    @classmethod
    def parse_all(cls, texts: list[str], flag: str = "--net") -> tuple[NetConfig, ...]:
        """All network devices of a command line; ``none`` must be alone.

        :raises ConfigError: as :meth:`parse`
        """
        if "none" in texts:
            if len(texts) > 1:
                raise ConfigError(f"{flag} none goes with no other {flag}", code="net-syntax")
            return ()
        return super().parse_all(texts, flag)

    def of_child(self, number: int) -> NetConfig:
        """It publishes no ports, and no program answers in the network's place."""
        if not (self.publish or self.responder):
            return self
        return replace(self, publish=(), responder="", responder_address="")

    @property
    def calls(self) -> int:
        from vmm.native import lib

        return int(lib.SECCOMP_VHOST if self.backend == "vhost" else lib.SECCOMP_NET) | (
            0 if self.kind == "tap" else lib.SECCOMP_CHILD
        )

    def open(self, opening: Opening) -> VirtioDevice:
        from vmm.virtio.net.device import Net, stable_mac

        device: Net
        side = None
        if self.responder:
            from vmm.virtio.net.responder import Responder

            side = opening.owned.add(Responder(self.responder, self.responder_address))
        if self.kind == "tap":
            from vmm.virtio.net.tap import Tap

            tap = opening.owned.add(Tap(self.tap, self.queues, self.mtu))
            mac = self.mac_bytes() if self.mac else stable_mac(tap.identity)
            if self.backend == "vhost":
                from vmm.virtio.net.vhost import VhostNet

                device = VhostNet(tap, mac=mac)
            else:
                device = Net(tap, mac=mac, limit=self.limit, side=side)
        else:
            from vmm.virtio.net.passt import Passt

            mac = self.mac_bytes() if self.mac else stable_mac(f"user {opening.place}")
            device = Net(opening.owned.add(Passt(mac, self.publish, self.mtu)), mac=mac, limit=self.limit, side=side)
        device.thread_name = f"net{opening.place}-"
        return device


SYNTAX = Syntax(
    "net",
    "a network: tap=NAME, user or none (default: none); may be repeated",
    (
        Key("tap", "NAME", "a tap device that exists"),
        Key("user", "", "a user network (passt; no privileges needed; DHCP)"),
        Key("queues", "N", "pairs of queues, each with a thread; a tap device with multi_queue", convert=number),
        Key(
            "publish",
            "[ADDR:]HOST:GUEST[/udp]",
            "a port of the host that is forwarded to the guest (user)",
            "",
            _publish,
            many=True,
        ),
        Key("backend", "|".join(BACKENDS), "vhost: the host's kernel serves the queues (tap)"),
        Key("mac", "MAC", "the guest's address (default: a constant one)", convert=word),
        Key("mtu", "N", "bytes (default: the tap device's)", convert=number),
        Key("rate", "BYTES[:BURST]", "no more a second, in each direction", convert=word),
        Key("pps", "FRAMES[:BURST]", "no more a second, in each direction", convert=word),
    ),
)
