"""The names of the server itself: a web page whose name leads here by DNS must not use it (DNS rebinding).

Without a file of keys any key is accepted: only the address protects the server, since whoever reaches loopback is a
user of this host.  A browser reaches it for anybody's page, too.  But it sends the page's own name, in ``Host`` or in
``Origin``, and the page can change neither.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pyvmm_server.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyvmm_server.settings import Settings

_HINT = "name it by --allow-host if it is this server's"


class Hosts:
    """
    :param settings: whose keys, domain and names decide
    """

    def __init__(self, settings: Settings) -> None:
        self._is_open = not settings.keys
        domain = bare(settings.domain)
        self._names = frozenset(("localhost", domain, f"api.{domain}", *map(bare, settings.hosts)))

    def check(self, headers: Mapping[str, str]) -> None:
        """
        :raises ClientError: a request came under another name, or from a page of another one
        """
        if not self._is_open:
            return  # a page does not have the key
        host = bare(headers.get("host", ""))
        # An address is nobody's name: no DNS answer leads to it.
        if host not in self._names and not _is_address(host):
            raise ClientError(421, f"{host[:80]!r} is no name of this server: {_HINT}")
        if (origin := headers.get("origin")) is not None:
            page = _page(origin)
            if page != host and page not in self._names and not _is_loopback(page):
                raise ClientError(403, f"a page of {origin[:80]!r} may not use this server: {_HINT}")


def bare(host: str) -> str:
    """The name or address of ``NAME[:PORT]``, without the brackets of IPv6, in small letters."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name = host.partition(":")[0] if host.count(":") == 1 else host
    return name.removesuffix(".")


def _page(origin: str) -> str:
    """The host of an ``Origin`` header.  Empty: the header does not name a server."""
    try:
        return bare(urlsplit(origin).netloc) if origin.count("/") == 2 else ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_loopback
