"""``pyvmm-oci features``: prints what this runtime can do (OCI runtime specification, features.md)."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from pyvmm_kata.config.settings import PREFIX
from pyvmm_kata.host.hooks import GUEST_KINDS, HOST_KINDS
from pyvmm_kata.oci.options import parse
from pyvmm_kata.state import OCI_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context

MOUNT_OPTIONS = (
    "bind", "rbind", "ro", "rw", "rro", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "atime",
    "noatime", "relatime", "strictatime", "private", "rprivate", "slave", "rslave", "shared", "rshared",
)  # fmt: skip


def main(_context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    parse(arguments, {}, {}, "features")
    sys.stdout.write(json.dumps(features(), indent=2) + "\n")
    return 0


def features() -> dict[str, object]:
    """The object that is printed."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
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
        "potentiallyUnsafeConfigAnnotations": [PREFIX],
    }
