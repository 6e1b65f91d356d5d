"""lwIP, the TCP/IP stack that the core contains: its source, from the package archive that apt uses.

``python -m pyvmm_sentry.lwip`` prints the folder with the source, after it has fetched it where the cache has none.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyvmm_sentry.source import SourceError, fetched

PACKAGE = "lwip"
PARTS = {
    "core": (
        "def",
        "inet_chksum",
        "init",
        "ip",
        "mem",
        "memp",
        "netif",
        "pbuf",
        "tcp",
        "tcp_in",
        "tcp_out",
        "timeouts",
        "udp",
    ),
    "core/ipv4": ("dhcp", "etharp", "icmp", "ip4", "ip4_addr", "ip4_frag"),
    "core/ipv6": ("ethip6", "icmp6", "inet6", "ip6", "ip6_addr", "ip6_frag", "nd6"),
    "netif": ("ethernet",),
}
"""The source files that the core contains, by folder."""


def source() -> Path:
    """The folder of the source, see :func:`pyvmm_sentry.source.fetched`."""
    return fetched(PACKAGE)


def files() -> list[Path]:
    """The C files that the core contains.

    :raises SourceError: as :func:`source`
    """
    top = source() / "src"
    return [top / folder / f"{name}.c" for folder, names in PARTS.items() for name in names]


def main() -> int:
    """Print the folder of the source; returns the exit status."""
    try:
        print(source())
    except SourceError as error:
        print(f"error: {error}\n  hint: {error.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
