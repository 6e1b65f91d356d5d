"""Kubernetes' container runtime interface, asked of containerd as kubelet does."""

from . import containers, isolation, pods, resources, streams
from .stage import SCRIPT

SCENES = SCRIPT.scenes

__all__ = ["SCENES", "containers", "isolation", "pods", "resources", "streams"]
