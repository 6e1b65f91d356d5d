"""``pyvmm-oci state ID`` prints the state of a container as JSON, ``pyvmm-oci list`` the containers below ``--root``.

``pyvmm-oci ps ID`` prints the processes of a container, by their pids in its virtual machine;
with ``--format stacks``, what its tasks do in the Sentry. ``pyvmm-oci features``
prints the features of this runtime (OCI runtime specification, features.md).
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from pyvmm_kata import state as states
from pyvmm_kata.bundle.settings import POLICY, PREFIX
from pyvmm_kata.errors import ConfigError, GuestError
from pyvmm_kata.host.hooks import GUEST_KINDS, HOST_KINDS
from pyvmm_kata.oci.options import FLAG, VALUE, one_id, parse
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.state import Json

MOUNT_OPTIONS = (
    "bind", "rbind", "ro", "rw", "rro", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "atime",
    "noatime", "relatime", "strictatime", "private", "rprivate", "slave", "rslave", "shared", "rshared",
)  # fmt: skip
COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def state(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    _, rest = parse(arguments, {}, {}, "state")
    sys.stdout.write(states.text(states.read(context.folder(one_id(rest, "state")))))
    return 0


def list_(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options, rest = parse(arguments, {"format": VALUE, "quiet": FLAG}, {"f": "format", "q": "quiet"}, "list")
    if rest:
        raise ConfigError(f"list: {rest[0]!r} is one argument too many", code="oci-usage")
    if options["format"] not in ("", "table", "json"):
        raise ConfigError(f"list: --format {options['format']!r} is neither table nor json", code="oci-usage")
    found = list(_all_states(context))
    if options["quiet"]:
        sys.stdout.write("".join(f"{known['id']}\n" for known in found))
    elif options["format"] == "json":
        sys.stdout.write(json.dumps(found or None) + "\n")
    else:
        rows = [COLUMNS, *(tuple(str(known[name.lower()]) for name in COLUMNS) for known in found)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        for row in rows:
            line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            sys.stdout.write(line.rstrip() + "\n")
    return 0


def _all_states(context: Context) -> list[Json]:
    if not os.path.isdir(context.root):
        return []
    found = []
    for name in sorted(os.listdir(context.root)):
        if name.startswith("@"):
            continue  # of a machine
        try:
            found.append(states.public(states.read(context.folder(name))))
        except ConfigError:
            pass  # it is being made, or removed, or is no container
    return found


def ps(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options, rest = parse(arguments, {"format": VALUE}, {"f": "format"}, "ps")
    folder = context.folder(one_id(rest[:1], "ps"))
    if options["format"] not in ("", "table", "json", "stacks"):
        raise ConfigError(f"ps: --format {options['format']!r} is not table, json or stacks", code="oci-usage")
    states.read(folder)
    if options["format"] == "stacks":
        sys.stdout.write(_stacks(folder))
        return 0
    pids = control.call(folder, "pids")["pids"]
    if options["format"] == "json":
        sys.stdout.write(json.dumps(pids) + "\n")
    else:
        sys.stdout.write("PID\n" + "".join(f"{pid}\n" for pid in pids))
    return 0


def _stacks(folder: str) -> str:
    """
    :raises ConfigError: the Sentry is not installed
    :raises GuestError: its guest is not the Sentry
    """
    from pyvmm_kata.pod import sentry_guest

    programs = sentry_guest.programs()
    report = control.fetch(folder, "stacks")
    from pyvmm_sentry import stacks

    try:
        return stacks.describe(report, programs)
    except ValueError as error:
        words = f"the guest has reported no stacks of the Sentry: {error}"
        raise GuestError(words, code="agent-answer", hint="containers with --isolation sentry have them") from error


def features(_context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    parse(arguments, {}, {}, "features")
    sys.stdout.write(json.dumps(_features(), indent=2) + "\n")
    return 0


def _features() -> dict[str, object]:
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": states.OCI_VERSION,
        "hooks": [*HOST_KINDS, *GUEST_KINDS],
        "mountOptions": list(MOUNT_OPTIONS),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "cgroup": {"v1": False, "v2": True, "systemd": True, "systemdUser": False, "rdma": False},
            "seccomp": {"enabled": True},
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": False}},
        },
        "potentiallyUnsafeConfigAnnotations": [PREFIX, POLICY],
    }
