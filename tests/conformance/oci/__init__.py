"""The OCI runtime specification 1.2, and the command line that runc and crun share."""

from . import cgroup, command, hooks, host, life, mounts, namespaces, process, root
from .box import SCRIPT

SCENES = SCRIPT.scenes

__all__ = ["SCENES", "cgroup", "command", "hooks", "host", "life", "mounts", "namespaces", "process", "root"]
