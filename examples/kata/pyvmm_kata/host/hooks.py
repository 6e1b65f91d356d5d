"""Programs of config.json that run at points of a container's life (OCI runtime specification, config.md,
"POSIX-platform Hooks"). They run on the host, in the namespaces of the runtime's caller and in the bundle's folder, as
with runc. Those of ``startContainer`` are the container's own programs, which crun runs in the guest."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import time
from typing import TYPE_CHECKING

from pyvmm_kata.errors import HostError, bad
from pyvmm_kata.state import Json

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import Popen

HOST_KINDS = ("prestart", "createRuntime", "poststart", "poststop")
GUEST_KINDS = ("startContainer",)
TIMEOUT_S = 120
MAX_TIMEOUT_S = 1_000_000
"""poll(2) takes no more than 24 days."""
LAST_WORDS = 500
"""Bytes of what a hook prints on stderr that an error quotes."""


def check(spec: Json) -> None:
    """
    :raises ConfigError: there are hooks that would have to run on the host and in the container's namespaces
    """
    for kind, entries in spec.get("hooks", {}).items():
        if entries and kind not in (*HOST_KINDS, *GUEST_KINDS):
            raise bad(
                f"hooks.{kind}",
                "programs of the host cannot run in namespaces that are in a virtual machine",
                f"hooks can be {', '.join(HOST_KINDS)} on the host, {', '.join(GUEST_KINDS)} in the container",
            )


def run(hooks: Json, kind: str, state: Json, warn: Callable[[str], None] | None = None) -> None:
    """Run the hooks of one kind, in order, with the container's state as their input.

    A hook has ended when its process has, whatever processes it has left running. One that takes too long is killed
    with all processes of its group.

    :param warn: called for hooks that fail, after which the others run as well
    :raises HostError: one failed, or took too long; later ones have not run
    """
    for hook in hooks.get(kind) or ():
        try:
            _run(hook, kind, state)
        except HostError as error:
            if warn is None:
                raise
            warn(str(error))


def _run(hook: Json, kind: str, state: Json) -> None:
    import subprocess

    path = hook["path"]
    command = hook.get("args") or [path]  # dockerd's hook is dockerd, which decides by its first argument
    environment = dict(entry.split("=", 1) for entry in hook.get("env") or () if "=" in entry)
    timeout = min(hook.get("timeout", TIMEOUT_S), MAX_TIMEOUT_S)
    try:
        process = subprocess.Popen(
            command,
            executable=path,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=state["bundle"],
            process_group=0,
        )
    except OSError as error:
        raise HostError(f"{kind} hook {path}: {error.strerror}", code="oci-hook") from error
    with process:
        said = _attend(process, json.dumps(state).encode(), timeout)
        if said is None:
            os.killpg(process.pid, signal.SIGKILL)
    if said is None:
        raise HostError(f"{kind} hook {path} did not end in {timeout} s", code="oci-hook")
    if process.returncode:
        words = said.decode(errors="replace").strip()
        raise HostError(f"{kind} hook {path} ended with {process.returncode}: {words}", code="oci-hook")


def _attend(process: Popen[bytes], given: bytes, timeout: float) -> bytes | None:
    """Write its input, and read its output, until the process has ended. Returns the end of the output; None: it has
    not ended."""
    assert process.stdin is not None and process.stderr is not None
    stdin, stderr, said = process.stdin.fileno(), process.stderr.fileno(), b""
    pidfd = os.pidfd_open(process.pid)
    deadline = time.monotonic() + timeout
    ready = select.poll()
    for fd, events in ((pidfd, select.POLLIN), (stdin, select.POLLOUT), (stderr, select.POLLIN)):
        os.set_blocking(fd, False)
        ready.register(fd, events)
    try:
        while True:
            found = dict(ready.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if stdin in found:
                try:
                    given = given[os.write(stdin, given) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    given = b""  # it does not want to know
                if not given:
                    ready.unregister(stdin)
                    process.stdin.close()
            if stderr in found:
                piece = os.read(stderr, 1 << 16)
                said = (said + piece)[-LAST_WORDS:]
                if not piece:
                    ready.unregister(stderr)
            if pidfd in found:
                return _read_rest(stderr, said)
            if time.monotonic() >= deadline:
                return None
    finally:
        os.close(pidfd)


def _read_rest(stderr: int, said: bytes) -> bytes:
    """The rest in the pipe of a hook that has ended, and no more: its leftover processes may print for ever."""
    left = fcntl.fcntl(stderr, fcntl.F_GETPIPE_SZ)
    while left > 0:
        try:
            piece = os.read(stderr, left)
        except BlockingIOError:
            break
        if not piece:
            break
        said = (said + piece)[-LAST_WORDS:]
        left -= len(piece)
    return said
