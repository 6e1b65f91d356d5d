"""The common parts of all commands: the global options, and the place of a container's state."""

from __future__ import annotations

import json
import os
import sys
from typing import NamedTuple

from pyvmm_kata.state import is_of_a_user, now

SYSTEM_ROOT = "/run/pyvmm-oci"


def default_root() -> str:
    """The default of ``--root``: on a tmpfs, since no container survives a reboot of the host."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/pyvmm-oci" if runtime and is_of_a_user() else SYSTEM_ROOT


class Context(NamedTuple):
    """The global options.

    :ivar annotations: those of config.json that the caller has written itself, so that the settings need not allow them
    :ivar isolation: ``vm`` or ``sentry``, instead of what the settings say; or empty
    :ivar platform: what a Sentry runs on, see :mod:`pyvmm_kata.pod.sentry_guest`; empty: what works
    :ivar network: of a new container: ``sandbox``, that of its namespace; ``none``; ``user``; empty: by the settings
    :ivar overlay: ``memory``: what a new container writes to its root is in the guest's memory; or empty
    :ivar strace: a Sentry prints every system call on its console
    """

    root: str
    log: str = ""
    log_format: str = "text"
    debug: bool = False
    systemd_cgroup: bool = False
    config: str = ""
    annotations: tuple[str, ...] = ()
    isolation: str = ""
    platform: str = ""
    network: str = ""
    strace: bool = False
    overlay: str = ""

    def folder(self, container_id: str) -> str:
        """The folder of a container's state."""
        return os.path.join(self.root, container_id)

    def error(self, message: str) -> None:
        """Write why a command failed to the log, in runc's form, and to stderr."""
        self._write("error", message)
        sys.stderr.write(message + "\n")

    def note(self, what: str, at: float) -> None:
        """Write an event to the log, for ``--debug``; *at* is its time by CLOCK_MONOTONIC, in seconds."""
        self._write("debug", what, monotonic=round(at, 9))

    def _write(self, level: str, message: str, **more: float) -> None:
        if not self.log:
            return
        moment = now()
        if self.log_format == "json":
            line = json.dumps({"level": level, "msg": message, "time": moment, **more})
        else:
            words = [f'time="{moment}" level={level} msg={json.dumps(message)}']
            line = " ".join([*words, *(f"{name}={value}" for name, value in more.items())])
        try:
            with open(self.log, "a") as file:
                file.write(line + "\n")
        except OSError:
            pass  # errors are also on stderr
