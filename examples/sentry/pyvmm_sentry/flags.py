"""Flags of runsc, as scripts have them, for the commands of ``pyvmm-runsc``.

They stand before the command, in Go's syntax: ``-debug``, ``--debug`` and ``--debug=true`` are the same.  A flag either
has an effect, or is accepted since nothing that a program sees depends on it, or is refused.
"""

from __future__ import annotations

from typing import NamedTuple

FLAG, VALUE = "flag", "value"
USED = {
    "root": VALUE, "log": VALUE, "log-format": VALUE, "debug": FLAG, "debug-log": VALUE, "systemd-cgroup": FLAG,
    "platform": VALUE, "network": VALUE, "strace": FLAG, "config": VALUE, "overlay2": VALUE, "overlay": FLAG,
    "host-uds": VALUE, "version": FLAG, "help": FLAG,
}  # fmt: skip
"""Flags with an effect, or of which only some values are accepted."""
IGNORED = {
    "rootless": FLAG, "ignore-cgroups": FLAG, "alsologtostderr": FLAG, "debug-to-user-log": FLAG,
    "log-packets": FLAG, "strace-event": FLAG, "directfs": FLAG, "lisafs": FLAG, "vfs2": FLAG, "fuse": FLAG,
    "cgroupfs": FLAG, "oci-seccomp": FLAG, "cpu-num-from-quota": FLAG, "gso": FLAG, "software-gso": FLAG,
    "gvisor-gro": FLAG, "tx-checksum-offload": FLAG, "rx-checksum-offload": FLAG, "buffer-pooling": FLAG,
    "app-huge-pages": FLAG, "net-raw": FLAG, "allow-flag-override": FLAG, "iouring": FLAG,
    "enable-core-tags": FLAG,
    "debug-log-format": VALUE, "strace-log-size": VALUE, "file-access": VALUE, "file-access-mounts": VALUE,
    "dcache": VALUE, "watchdog-action": VALUE, "panic-signal": VALUE, "qdisc": VALUE,
    "num-network-channels": VALUE, "fdlimit": VALUE, "ref-leak-mode": VALUE, "traceback": VALUE,
}  # fmt: skip
"""Flags without effect: how runsc does its work, and what is so here anyway."""
PLATFORMS = {"kvm": "kvm", "systrap": "trap", "trap": "trap", "ptrace": "ptrace", "auto": "auto"}
OVERLAYS = ("root:memory", "root:self")
"""Where changes of the root are kept. Here both are in the sandbox's memory."""
NETWORKS = ("none", "sandbox", "user")


class Refused(Exception):
    """A flag cannot be honoured.

    :ivar hint: what to do instead
    """

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class Flags(NamedTuple):
    """Those before the command.

    :ivar values: of the flags in :data:`USED` that were given; of a flag without a value, empty if it is off
    """

    values: dict[str, str]

    def of(self, name: str) -> str:
        """The value of a flag."""
        return self.values.get(name, "")

    @property
    def platform(self) -> str:
        """One of this project's platforms; empty: not given."""
        return PLATFORMS.get(self.of("platform"), "")

    @property
    def log(self) -> str:
        """The file for messages."""
        log = self.of("log") or self.of("debug-log")
        return f"{log}pyvmm-runsc.log" if log.endswith("/") else log

    def check(self) -> None:
        """
        :raises Refused: a value cannot be honoured
        """
        if self.of("platform") and not self.platform:
            raise Refused(f"--platform {self.of('platform')}: there are {', '.join(PLATFORMS)}")
        if self.of("network") == "host":
            raise Refused("--network host: a sandbox never has the host's network", "--network sandbox, or user")
        if self.of("network") and self.of("network") not in NETWORKS:
            raise Refused(f"--network {self.of('network')}: there are {', '.join(NETWORKS)}")

    def check_container(self) -> None:
        """
        :raises Refused: a value cannot be honoured for a container
        """
        if self.of("overlay") or self.of("overlay2") not in ("", "none", *OVERLAYS):
            raise Refused("--overlay2: only changes of the root can be in memory", f"--overlay2=none, or {OVERLAYS[0]}")
        if self.of("host-uds") not in ("", "none"):
            raise Refused("--host-uds: programs reach no socket of the host", "--host-uds=none")


def split(arguments: list[str]) -> tuple[Flags, list[str]]:
    """The flags, and the command with its own arguments.

    :raises Refused: a flag is unknown, has no value, or cannot be honoured
    """
    values: dict[str, str] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, value = word.lstrip("-").partition("=")
        name = {"h": "help", "v": "version"}.get(name, name)
        kind = USED.get(name) or IGNORED.get(name)
        if kind is None:
            raise Refused(f"flag {word} is not known", "pyvmm-runsc flags lists them")
        if kind == FLAG:
            value = "" if equals and value.lower() in ("false", "f", "0") else "true"
        elif not equals:
            if not rest:
                raise Refused(f"flag {word} needs a value")
            value = rest.pop(0)
        if name in USED:
            values[name] = value
    flags = Flags(values)
    flags.check()
    return flags, rest


def text() -> str:
    """A list of the flags, for ``pyvmm-runsc flags``."""
    lines = ["with an effect:", *(f"  --{name}" for name in sorted(USED))]
    return "\n".join([*lines, "accepted without effect:", *(f"  --{name}" for name in sorted(IGNORED))])
