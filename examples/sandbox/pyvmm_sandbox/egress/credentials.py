"""Secrets that a sandbox uses and never has: it sends a placeholder, and the gateway sends the secret."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from pyvmm_sandbox.egress.rules import Network, host_name
from pyvmm_sandbox.errors import UsageError

SECRETS_MOST = 256
_VALUE_MOST = 16 << 10
_SHORTEST_REDACTED = 8
"""Characters of a secret: a shorter one is in other words by chance."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_FRAMING = frozenset(("connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"))
"""Headers that decide where a request leads, or where it ends."""
_PLACEHOLDER = re.compile(r"[A-Za-z0-9_.-]{16,256}")
_PORTS = {"https": 443, "http": 80}
_HINT = 'Secret(value, hosts=["api.example.com"])'


class Target(NamedTuple):
    """Where a secret is sent.

    :ivar name: of a host, or ``*.NAME``
    :ivar is_https: with TLS, and only to a server whose certificate is right
    """

    name: str
    port: int
    is_https: bool

    @classmethod
    def parse(cls, text: str) -> Target:
        """
        :param text: ``NAME[:PORT]`` for HTTPS, or ``http://NAME[:PORT]``
        :raises UsageError: it is no such text
        """
        try:
            parts = urlsplit(text if "://" in text else f"https://{text}")
            port = parts.port or _PORTS[parts.scheme]
            name, below = parts.hostname or "", (parts.hostname or "").removeprefix("*.")
            if parts.path.strip("/") or parts.query or parts.username or below.replace(".", "").isdigit():
                raise ValueError("more than a name and a port, or an address")
            return cls(name[: -len(below)] + host_name(below), port, parts.scheme == "https")
        except (ValueError, KeyError) as error:
            raise UsageError(f"host {text!r:.80} of a secret: {error}", hint=_HINT) from error

    def matches(self, name: str, port: int, is_https: bool) -> bool:
        """Whether a connection leads there."""
        below = self.name.startswith("*.") and name.endswith(self.name[1:])
        return (self.name == name or below) and (self.port, self.is_https) == (port, is_https)


@dataclass(frozen=True)
class Secret:
    """A value that requests to some hosts have in place of its placeholder, which is all that the sandbox sees.

    :param value: the secret
    :param hosts: that get it: ``NAME[:PORT]`` for HTTPS; ``http://NAME[:PORT]`` sends it without encryption
    :param in_query: replace it in the query of the address, too, and not only in headers
    :param header: set this header of each request to the value, whatever the sandbox sends; it gets no placeholder then
    :param placeholder: 16 to 256 letters, digits, ``_``, ``.`` and ``-``; empty: a new one for each sandbox
    :raises UsageError: they cannot be used
    """

    value: str = field(repr=False)
    hosts: Sequence[str]
    in_query: bool = False
    placeholder: str = ""
    header: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.value, str) or not 0 < len(self.value) <= _VALUE_MOST:
            raise UsageError(f"a secret is not a text of 1 to {_VALUE_MOST} characters", hint=_HINT)
        if not self.value.isascii() or not self.value.isprintable():
            raise UsageError("a secret has characters that a header cannot have", hint="ASCII without line ends")
        if isinstance(self.hosts, str) or not self.hosts:
            raise UsageError("a secret has no list of hosts", hint=_HINT)
        object.__setattr__(self, "hosts", tuple(self.hosts))
        if self.header and (not _HEADER.fullmatch(self.header) or self.header.lower() in _FRAMING):
            raise UsageError(f"{self.header!r:.80} is no header that can be set", hint='header="Authorization"')
        if self.placeholder and not _PLACEHOLDER.fullmatch(self.placeholder):
            raise UsageError("a placeholder is not 16 to 256 letters, digits, '_', '.' and '-'")
        _ = [Target.parse(host) for host in self.hosts]


class Credential(NamedTuple):
    """A secret of one sandbox."""

    placeholder: str
    value: str
    targets: tuple[Target, ...]
    in_query: bool
    header: str = ""

    def __repr__(self) -> str:
        return f"<Credential {self.placeholder}>"

    def as_json(self) -> dict[str, Any]:
        """For the gateway, which alone gets it."""
        return {**self._asdict(), "targets": [tuple(each) for each in self.targets]}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Credential:
        """See :meth:`as_json`."""
        return cls(**{**found, "targets": tuple(Target(*each) for each in found["targets"])})


def issue(wanted: Mapping[str, Secret], network: Network) -> tuple[dict[str, str], list[Credential]]:
    """The variables that the sandbox gets, with placeholders, and what the gateway gets.

    :raises UsageError: a name is no variable's, two placeholders are alike, or a host is not allowed
    """
    variables, made = {}, []
    if len(wanted) > SECRETS_MOST:
        raise UsageError(f"more than {SECRETS_MOST} secrets")
    for name, secret in wanted.items():
        if not isinstance(secret, Secret) or not _VARIABLE.fullmatch(name):
            raise UsageError(f"secret {name!r:.80}: not a Secret with the name of a variable", hint=_HINT)
        targets = tuple(Target.parse(host) for host in secret.hosts)
        for target in targets:
            if not network.permits_name(target.name.replace("*.", "any.", 1), target.port):
                raise UsageError(
                    f"secret {name}: the network does not allow {target.name}:{target.port}",
                    hint=f'Network(allow=["{target.name}:{target.port}"])',
                )
        placeholder = secret.placeholder or f"pyvmm-secret-{secrets.token_hex(16)}"
        if not secret.header:
            variables[name] = placeholder
        made.append(Credential(placeholder, secret.value, targets, secret.in_query, secret.header))
    if any(first != second and one in two for first, one in variables.items() for second, two in variables.items()):
        raise UsageError("a placeholder is a part of another")
    return variables, made


class _Table:
    """Replaces texts in one pass, so that what was put in is not replaced again."""

    def __init__(self, texts: Iterable[tuple[bytes, bytes]]) -> None:
        self._found = dict(texts)
        ordered = sorted(self._found, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, data: bytes) -> bytes:
        return data if self._pattern is None else self._pattern.sub(lambda match: self._found[match[0]], data)


class Replacer:
    """Replaces placeholders in the requests of one connection, and secrets in the headers of answers.

    :param credentials: that its server gets
    """

    def __init__(self, credentials: Iterable[Credential]) -> None:
        found = list(credentials)
        all_ = [(each.placeholder.encode(), each.value.encode(), each.in_query) for each in found]
        self._set = {each.header.lower().encode(): (each.header, each.value) for each in found if each.header}
        self._values = _Table((placeholder, value) for placeholder, value, _ in all_)
        self._queries = _Table((placeholder, _quoted(value)) for placeholder, value, in_query in all_ if in_query)
        long = [(placeholder, value) for placeholder, value, _ in all_ if len(value) >= _SHORTEST_REDACTED]
        self._answers = _Table((text, placeholder) for placeholder, value in long for text in (value, _quoted(value)))

    def target(self, target: bytes) -> bytes:
        """Of a request: its path and query."""
        path, mark, query = target.partition(b"?")
        return path + mark + self._queries(query)

    def headers(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Of a request; that of a name and password (RFC 7617) is decoded."""
        kept = [(name, self._value(value)) for name, value in headers if name.lower() not in self._set]
        return kept + [(name.encode(), value.encode()) for name, value in self._set.values()]

    def _value(self, value: bytes) -> bytes:
        scheme, _, rest = value.partition(b" ")
        if scheme.lower() == b"basic":
            try:
                return scheme + b" " + base64.b64encode(self._values(base64.b64decode(rest.strip(), validate=True)))
            except binascii.Error:
                pass
        return self._values(value)

    def answer(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Headers of an answer, with placeholders again for the secrets that it repeats."""
        return [(name, self._answers(value)) for name, value in headers]


def _quoted(value: bytes) -> bytes:
    return quote(value, safe="").encode()
