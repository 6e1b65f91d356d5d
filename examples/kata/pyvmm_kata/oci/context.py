"""What all commands share: the global options, and where a container's state is."""

from __future__ import annotations

import json
import os
import sys
from typing import NamedTuple

from pyvmm_kata.state import now


def default_root() -> str:
    """Where state is kept unless ``--root`` says: a tmpfs, since nothing of it outlives the host's power."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/pyvmm-oci" if os.geteuid() and runtime else "/run/pyvmm-oci"


class Context(NamedTuple):
    """The global options."""

    root: str
    log: str = ""
    log_format: str = "text"
    debug: bool = False
    systemd_cgroup: bool = False
    config: str = ""

    def folder(self, container_id: str) -> str:
        """Where the state of a container is."""
        return os.path.join(self.root, container_id)

    def error(self, message: str) -> None:
        """Say why a command failed, where the caller reads it: the log, in runc's form, and stderr."""
        self._write("error", message)
        sys.stderr.write(message + "\n")

    def note(self, what: str, at: float) -> None:
        """Write into the log, for ``--debug``, that something happened *at* a time of CLOCK_MONOTONIC, in seconds."""
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
            pass  # stderr has it
