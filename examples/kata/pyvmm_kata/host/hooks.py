"""Programs of config.json that run at points of a container's life (OCI runtime specification, config.md,
"POSIX-platform Hooks").  They run on the host, in the namespaces of the runtime's caller and in the bundle's folder, as
with runc; those of ``startContainer`` are the container's own programs, which crun runs in the guest."""

from __future__ import annotations

import json

from pyvmm_kata.config.checks import Json, bad
from pyvmm_kata.errors import HostError

HOST_KINDS = ("prestart", "createRuntime", "poststart", "poststop")
GUEST_KINDS = ("startContainer",)
TIMEOUT_S = 120
MAX_TIMEOUT_S = 1_000_000
"""poll(2) takes no more than 24 days."""


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


def run(hooks: Json, kind: str, state: Json) -> None:
    """Run the hooks of one kind, in order, with the container's state as their input.

    :raises HostError: one failed, or took too long; those after it have not run
    """
    if not hooks.get(kind):
        return
    import subprocess

    for hook in hooks[kind]:
        command = [hook["path"], *(hook.get("args") or [hook["path"]])[1:]]
        environment = dict(entry.split("=", 1) for entry in hook.get("env") or () if "=" in entry)
        timeout = min(hook.get("timeout", TIMEOUT_S), MAX_TIMEOUT_S)
        try:
            done = subprocess.run(
                command,
                input=json.dumps(state).encode(),
                env=environment,
                cwd=state["bundle"],
                capture_output=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise HostError(f"{kind} hook {hook['path']} did not end in {timeout} s", code="oci-hook") from error
        except OSError as error:
            raise HostError(f"{kind} hook {hook['path']}: {error.strerror}", code="oci-hook") from error
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip()[-500:]
            raise HostError(f"{kind} hook {hook['path']} ended with {done.returncode}: {words}", code="oci-hook")
