"""The rules of a sandbox's network, and what they decide."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pyvmm_sandbox.errors import UsageError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Block = ipaddress.IPv4Network | ipaddress.IPv6Network

RULES_MOST = 1024
_RULE_HINT = "for example pypi.org, *.example.com:443, 10.0.0.0/8:5432, [2001:db8::/32]:443"
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_NAME_MOST = 253
_ALL_PORTS = (1, 65535)
# Ranges that Python's is_global does not leave out, and that lead to other addresses: IPv4-compatible, NAT64, 6to4,
# Teredo, and ISATAP's neighbours in them
_LEADS_ELSEWHERE = tuple(
    ipaddress.ip_network(text) for text in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)
_SMALLEST_PREFIX = {4: 8, 6: 7}
"""Of a rule that opens addresses that are not global: ``10.0.0.0/8`` and ``fc00::/7``, but not ``0.0.0.0/0``."""


def plain(address: Address) -> Address:
    """An IPv4-mapped IPv6 address (``::ffff:10.0.0.1``) as the IPv4 address that it stands for."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def is_local(address: Address) -> bool:
    """Whether it is none of the Internet's: private, loopback, link-local, reserved, or one for many."""
    address = plain(address)
    return not address.is_global or address.is_multicast or any(address in block for block in _LEADS_ELSEWHERE)


def host_name(text: str) -> str:
    """A name in the form that rules compare: lower case, ASCII, no dot at the end.

    :raises ValueError: no host can have it
    """
    name = text.removesuffix(".").lower()
    if not name.isascii():
        name = name.encode("idna").decode("ascii")
    if not 0 < len(name) <= _NAME_MOST or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{text!r:.80} is no name of a host")
    return name


@dataclass(frozen=True)
class Rule:
    """One rule.

    :ivar text: as it was written
    :ivar name: of a host; ``*`` for all; ``*.example.com`` for those below; empty: the rule has addresses
    :ivar block: addresses, or None
    :ivar ports: the first and the last port
    """

    text: str
    name: str
    block: Block | None
    ports: tuple[int, int]

    @classmethod
    def parse(cls, text: str) -> Rule:
        """
        :param text: ``HOST[:PORT[-PORT]]``; a host is a name, ``*``, ``*.NAME``, an address or a CIDR block, and has
            brackets if it is of IPv6 and a port follows
        :raises UsageError: it is none of these
        """
        if not isinstance(text, str):
            raise UsageError(f"network rule {text!r:.80} is not a text", hint=_RULE_HINT)
        host, ports = _split(text.strip())
        try:
            return cls(text, "", ipaddress.ip_network(host, strict=False), ports)
        except ValueError:
            pass
        below = host.removeprefix("*.")
        try:
            if host != "*" and (below.replace(".", "").isdigit() or "/" in host):
                raise ValueError("neither an address nor a name")
            return cls(text, "*" if host == "*" else host[: -len(below)] + host_name(below), None, ports)
        except ValueError as error:
            raise UsageError(f"network rule {text!r:.80}: {error}", hint=_RULE_HINT) from error

    def matches_port(self, port: int) -> bool:
        """
        :param port: 0: any
        """
        return port == 0 or self.ports[0] <= port <= self.ports[1]

    def matches_name(self, name: str) -> bool:
        """
        :param name: of :func:`host_name`
        """
        return bool(self.name) and (
            self.name in ("*", name) or (self.name.startswith("*.") and name.endswith(self.name[1:]))
        )

    def matches_address(self, address: Address) -> bool:
        """
        :param address: of :func:`plain`
        """
        return self.name == "*" or (
            self.block is not None and address.version == self.block.version and address in self.block
        )

    @property
    def is_all(self) -> bool:
        """Whether it is for all addresses and ports: then it is a default, and names of other rules are before it."""
        return self.ports == _ALL_PORTS and (self.name == "*" or (self.block is not None and not self.block.prefixlen))

    @cached_property
    def opens_local(self) -> bool:
        """Whether it was written for addresses that are not the Internet's."""
        block = self.block
        return (
            block is not None
            and block.prefixlen >= _SMALLEST_PREFIX[block.version]
            and is_local(block.network_address)
            and is_local(block.broadcast_address)
        )


def _split(text: str) -> tuple[str, tuple[int, int]]:
    """The host of a rule, and its ports."""
    if text.startswith("["):
        inside, closed, rest = text[1:].partition("]")
        length, _, ports = rest.partition(":")
        if not closed or (rest and ":" not in rest and not rest.startswith("/")):
            raise UsageError(f"network rule {text!r:.80}: a bracket is not closed", hint=_RULE_HINT)
        return inside + length, _parse_ports(ports, text) if ":" in rest else _ALL_PORTS
    if text.count(":") != 1:
        return text, _ALL_PORTS
    host, _, ports = text.partition(":")
    return host, _parse_ports(ports, text)


def _parse_ports(ports: str, text: str) -> tuple[int, int]:
    found = _PORTS.fullmatch(ports)
    first = int(found[1]) if found else 0
    last = int(found[2] or first) if found else 0
    if not 1 <= first <= last <= _ALL_PORTS[1]:
        raise UsageError(f"network rule {text!r:.80}: {ports!r:.20} is no port of 1 to 65535", hint=_RULE_HINT)
    return first, last


@dataclass(frozen=True)
class Network:
    """What a sandbox reaches: ``Sandbox(..., network=Network(allow=["pypi.org", "10.0.0.0/8:5432"]))``.

    Rules are ``HOST[:PORT[-PORT]]``: a name, ``*.NAME`` for all names below it, ``*``, an address, or a CIDR block.
    Without a port, a rule is for all.  *allow* has priority over *deny*.

    Addresses that are not the Internet's (private, loopback, link-local, and those of the host itself) need a rule in
    *allow* with such an address or block, also if an allowed name resolves to them.

    :param allow: what it reaches
    :param deny: what it does not reach; ``0.0.0.0/0``, ``::/0`` or ``*`` mean all that no rule of *allow* matches
    :param default: ``allow`` or ``deny``: for what no rule matches; empty: ``deny`` if *allow* has a rule, or else
        ``allow``
    :raises UsageError: a rule cannot be read
    """

    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    default: str = ""

    def __post_init__(self) -> None:
        for kind, texts in (("allow", self.allow), ("deny", self.deny)):
            if isinstance(texts, str) or len(texts) > RULES_MOST:
                raise UsageError(f"network: {kind} is not a list of at most {RULES_MOST} rules", hint=_RULE_HINT)
            object.__setattr__(self, kind, tuple(texts))
        if self.default not in ("", "allow", "deny"):
            raise UsageError(f"network: default {self.default!r:.40} is neither allow nor deny")
        _ = self.allowed, self.denied

    @cached_property
    def allowed(self) -> tuple[Rule, ...]:
        """The rules of :attr:`allow`."""
        return tuple(Rule.parse(text) for text in self.allow)

    @cached_property
    def denied(self) -> tuple[Rule, ...]:
        """The rules of :attr:`deny`."""
        return tuple(Rule.parse(text) for text in self.deny)

    @property
    def allows_others(self) -> bool:
        """Whether it reaches what no rule matches."""
        if any(rule.is_all for rule in self.denied):
            return False
        return self.default == "allow" or (not self.default and not self.allow)

    def permits_name(self, name: str, port: int = 0) -> bool:
        """Whether the rules permit a host's name.  A connection also needs a permitted address.

        :param port: 0: any
        """
        if any(rule.matches_name(name) and rule.matches_port(port) for rule in self.allowed):
            return True
        return not self.denies_name(name, port) and self.allows_others

    def denies_name(self, name: str, port: int = 0) -> bool:
        """Whether a rule denies a name, and none allows it.  A rule for some ports does not deny it for ``0``: any."""
        if any(rule.matches_name(name) and rule.matches_port(port) for rule in self.allowed):
            return False
        return any(
            rule.matches_name(name) and (rule.ports == _ALL_PORTS if port == 0 else rule.matches_port(port))
            for rule in self.denied
        )

    def permits_address(self, address: Address, port: int, *, named: bool = False, is_host: bool = False) -> bool:
        """Whether a connection to an address is permitted.

        :param named: a permitted name has resolved to it
        :param is_host: it is one of the host's own
        """
        address = plain(address)
        local = is_host or is_local(address)
        if self.allows_address(address, port, local=local):
            return True
        denied = [rule for rule in self.denied if rule.matches_address(address) and rule.matches_port(port)]
        if local or any(not (named and rule.is_all) for rule in denied):
            return False
        return named or self.allows_others

    def allows_address(self, address: Address, port: int, *, local: bool = False) -> bool:
        """Whether a rule of *allow* matches an address.

        :param local: it is not the Internet's, which needs a rule for such addresses
        """
        return any(
            rule.matches_address(address) and rule.matches_port(port) and (rule.opens_local or not local)
            for rule in self.allowed
        )
