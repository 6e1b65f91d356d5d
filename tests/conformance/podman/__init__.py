"""podman's commands as users type them, with its default storage; what they print is what they print with crun."""

from . import containers, networks, options, pods, volumes
from .script import SCRIPT

SCENES = SCRIPT.scenes

__all__ = ["SCENES", "containers", "networks", "options", "pods", "volumes"]
