"""A bundle: the folder with config.json, and the root file system that it names."""

from __future__ import annotations

import json
import os

from pyvmm_kata.bundle import root_disks, writable_layer
from pyvmm_kata.bundle.checks import check_spec
from pyvmm_kata.bundle.guest_devices import volumes_of
from pyvmm_kata.errors import ConfigError, bad
from pyvmm_kata.state import Json

MAX_CONFIG = 16 << 20
OVERLAY = "io.pyvmm.overlay"
"""The annotation that keeps changes of the root in the guest's memory."""


class Bundle:
    """A checked bundle.

    :ivar path: the folder, absolute
    :ivar spec: its config.json
    :ivar rootfs: the folder with the container's files, or the disk, absolute
    :ivar disk: the disk with the container's root file system; None: it is a folder
    :ivar layer: bytes that the container may write to its root; 0: no limit
    :ivar volumes: the block devices of the host that are disks of its machine
    """

    def __init__(self, path: str, spec: Json, disk: root_disks.RootDisk | None = None) -> None:
        """
        :param disk: its root, instead of that in *spec*
        :raises ConfigError: *spec* cannot be run
        """
        check_spec(spec)
        self.path = os.path.abspath(path)
        self.spec = spec
        self.rootfs = disk.path if disk is not None else os.path.join(self.path, spec["root"]["path"])
        if disk is None and root_disks.is_disk(self.rootfs):
            disk = root_disks.open_disk(self.rootfs)
        if disk is not None and spec["root"].get("readonly") and not disk.read_only:
            disk = root_disks.open_disk(disk.path, read_only=True, options=disk.options)
        self.layer = writable_layer.size_of(spec.get("annotations") or {})
        if disk is not None and self.layer:
            if not disk.read_only:
                raise bad("root.path", f"{disk.path}: a writable disk has a size of its own, and no other limit")
            disk = disk._replace(layer=self.layer)
        self.disk = disk
        self.volumes = volumes_of(spec)

    @classmethod
    def load(cls, path: str, disk: root_disks.RootDisk | None = None) -> Bundle:
        """Read ``config.json`` of the folder *path*.

        :param disk: its root, instead of that in config.json
        :raises ConfigError: it is missing, or cannot be run
        """
        bundle = cls(path, read_json(os.path.join(path, "config.json")), disk)
        if bundle.disk is None and not os.path.isdir(bundle.rootfs):
            raise bad("root.path", f"{bundle.rootfs} is no directory, image file or block device")
        return bundle

    @classmethod
    def checked(cls, path: str, spec: Json, disk: root_disks.RootDisk | None = None) -> Bundle:
        """A bundle without disks of its machine, which another process has loaded and sent here.

        :param disk: the image that is its root
        """
        bundle = cls.__new__(cls)
        bundle.path, bundle.spec, bundle.disk, bundle.volumes = path, spec, disk, ()
        bundle.layer = writable_layer.size_of(spec.get("annotations") or {})
        bundle.rootfs = os.path.join(path, spec["root"]["path"])
        return bundle

    @property
    def overlay(self) -> bool:
        """What the container writes to its root is in the guest's memory, and lost with it.

        :raises ConfigError: the annotation has another value
        """
        wanted = self.annotations.get(OVERLAY, "")
        if wanted not in ("", "memory"):
            raise ConfigError(f"annotation {OVERLAY}: {wanted!r:.40} is not memory", code="oci-annotation")
        return bool(wanted)

    def put_in_share(self) -> None:
        """Its root is for a guest that reads stored images itself.

        :raises ConfigError: the guest cannot read this one
        """
        if self.disk is not None and self.disk.fstype == "erofs" and os.path.isfile(self.disk.path):
            root_disks.check_image(self.disk)
            self.disk = self.disk._replace(in_share=True)

    @property
    def machine_disk(self) -> root_disks.RootDisk | None:
        """The disk that its machine needs for its root."""
        return None if self.disk is not None and self.disk.in_share else self.disk

    @property
    def annotations(self) -> dict[str, str]:
        """Its annotations, empty if there are none."""
        return self.spec.get("annotations") or {}


def read_json(path: str) -> Json:
    """Parse a user's file as a JSON object.

    :raises ConfigError: there is no such file, or it contains something else
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_CONFIG + 1)
    except OSError as error:
        hint = "`pyvmm-oci spec` writes one to start from" if path.endswith("config.json") else ""
        raise ConfigError(f"{path}: {error.strerror}", code="oci-bundle", hint=hint) from error
    if len(content) > MAX_CONFIG:
        raise ConfigError(f"{path}: longer than {MAX_CONFIG >> 20} MiB", code="oci-bundle")
    return parse_json(content, path)


def parse_json(content: bytes, source: str, code: str = "oci-bundle") -> Json:
    """Parse a user's JSON object.

    :param source: its source, for the error
    :raises ConfigError: it is something else
    """
    try:
        value = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not JSON: {error}", code=code) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: not a JSON object", code=code)
    return value


def _no_constant(name: str) -> None:
    """Numbers that Python accepts, and JSON does not."""
    raise ValueError(f"{name} is no value")
