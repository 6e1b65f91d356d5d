"""Images: what a user names, unpacked into a root file system and the process that the image asks for.

skopeo copies archives and images of registries into an OCI layout; umoci unpacks a layout into a bundle.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile

from pyvmm_kata.config.checks import Json
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.sandbox import disks
from pyvmm_kata.sandbox.bundle import read_json

TIMEOUT_S = 1800
SCHEMES = ("docker://", "docker-archive:", "oci-archive:", "oci:", "containers-storage:", "dir:")


def open_image(name: str, folder: str) -> tuple[str, Json]:
    """The root file system of *name*, and the ``process`` that its image wants (empty for a folder or a disk).

    :param name: a folder with a root file system; a disk with one, an image file or a block device; an OCI layout, as
        ``DIR[:TAG]``; a docker or OCI archive; or what skopeo takes: ``docker://docker.io/library/debian``
    :param folder: where it may be unpacked, empty
    :raises ConfigError: it is none of these
    :raises HostError: skopeo or umoci is missing, or fails
    """
    path, _, tag = name.partition(":")
    if name.startswith(SCHEMES):
        return _unpack(_copy(name, folder), "image", folder)
    if disks.is_disk(name) and (disks.file_system(name) or not os.path.isfile(name)):
        return os.path.abspath(name), {}
    if os.path.isfile(name):
        return _unpack(_copy(f"{_archive_kind(name)}:{name}", folder), "image", folder)
    if os.path.isfile(os.path.join(name, "oci-layout")):
        return _unpack(name, _only_tag(name), folder)
    if os.path.isfile(os.path.join(path, "oci-layout")):
        return _unpack(path, tag, folder)
    if os.path.isdir(name):
        return os.path.abspath(name), {}
    raise ConfigError(
        f"{name}: no folder, disk, OCI layout or archive",
        code="image",
        hint="an image of a registry is docker://docker.io/library/debian",
    )


def _archive_kind(path: str) -> str:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.removeprefix("./") == "manifest.json":
                    return "docker-archive"
                if member.name.removeprefix("./") == "oci-layout":
                    return "oci-archive"
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ConfigError(
            f"{path}: no archive of an image: {error}",
            code="image",
            hint="a disk is known by its file system: ext4, erofs or squashfs",
        ) from error
    raise ConfigError(f"{path}: an archive, but of no image", code="image", hint="`docker save` makes one")


def _only_tag(layout: str) -> str:
    """The tag of the one image in an OCI layout (image-layout.md, "Image Layout").

    :raises ConfigError: there are several
    """
    index = read_json(os.path.join(layout, "index.json"))
    manifests = index.get("manifests") or []
    tags = [(each.get("annotations") or {}).get("org.opencontainers.image.ref.name", "") for each in manifests]
    named = [tag for tag in tags if tag]
    if len(named) != 1:
        raise ConfigError(
            f"{layout}: {len(named)} images with a name",
            code="image",
            hint=f"say which: {layout}:{(named or ['TAG'])[0]}",
        )
    return str(named[0])


def _copy(source: str, folder: str) -> str:
    layout = os.path.join(folder, "layout")
    _run(["skopeo", "copy", "--quiet", "--insecure-policy", source, f"oci:{layout}:image"], source)
    return layout


def _unpack(layout: str, tag: str, folder: str) -> tuple[str, Json]:
    bundle = os.path.join(folder, "bundle")
    rootless = ["--rootless"] if os.geteuid() else []
    _run(["umoci", "unpack", *rootless, "--image", f"{layout}:{tag}", bundle], f"{layout}:{tag}")
    process: Json = read_json(os.path.join(bundle, "config.json")).get("process") or {}
    return os.path.join(bundle, "rootfs"), json.loads(json.dumps(process))


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S)
    except FileNotFoundError as error:
        raise HostError(
            f"{what}: {command[0]} is not installed", code="image", hint=f"apt-get install {command[0]}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{what}: {command[0]} did not end in {TIMEOUT_S} s", code="image") from error
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()[-500:]
        raise HostError(f"{what}: {command[0]} ended with {done.returncode}: {words}", code="image")
