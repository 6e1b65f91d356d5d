"""Images: a user's name for one, unpacked into a root file system, and the process of the image's configuration.

The author of an image is not trusted. Its archive and layers are unpacked in a process that reaches only the
destination, and files that the image names are opened without leaving its layout. skopeo copies images of registries,
and of other places, into a layout.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from pyvmm_kata.bundle import root_disks
from pyvmm_kata.bundle.image_layers import Layer, Quota, Unpacker, find_user
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host import safe_open
from pyvmm_kata.host.confinement import Limits
from pyvmm_kata.host.jailed_call import Report, run_in
from pyvmm_kata.host.mounts import libc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from pyvmm_kata.state import Json

TIMEOUT_S = 1800.0
SIZE_MOST, ENTRIES_MOST = 64 << 30, 2_000_000
"""What an image may have, unpacked."""
SCHEMES = ("docker://", "docker-archive:", "oci-archive:", "oci:", "containers-storage:", "dir:")
_JSON_MOST = 4 << 20
_LAYERS_MOST = 256
_INDEXES_MOST = 3
_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_PR_SET_PDEATHSIG = 1
_TAG = "org.opencontainers.image.ref.name"
_REASON = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')
_HINTS = (
    ("manifest unknown", "there is no such image, or no such tag"),
    ("name unknown", "there is no such image"),
    ("HTTP response to HTTPS client", "--tls-verify=false accepts a registry without TLS"),
    ("x509: certificate", "--cert-dir names the folder with the registry's certificate authority"),
    ("authentication required", "--username and --password-stdin, or `podman login`"),
    ("unauthorized", "--username and --password-stdin, or `podman login`"),
    ("no space left on device", "pyvmm image prune"),
)
"""What to do about an error of skopeo or buildah, by words in it."""
_ENV = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm")


def open_image(name: str, folder: str) -> tuple[str, Json]:
    """The root file system of *name*, and the ``process`` of its image (empty for a folder or a disk).

    :param name: as for :func:`find_image`
    :param folder: an empty directory into which it may be unpacked
    :raises ConfigError: it is none of these, or damaged
    :raises HostError: skopeo is missing, or fails; it is too large, or the host refuses a file of it
    """
    found = find_image(name, folder)
    if isinstance(found, str):
        return found, {}
    with found:
        return found.unpack(folder)


def find_image(name: str, folder: str) -> Image | str:
    """The image *name*, not unpacked yet; the absolute path of a folder or a disk with a root file system.

    :param name: a folder with a root file system; a disk with one, an image file or a block device; an OCI layout, as
        ``DIR[:TAG]``; a docker or OCI archive; or a source for skopeo: ``docker://docker.io/library/debian``
    :param folder: an empty directory for the image's archive and layers; they are needed until it is unpacked
    :raises ConfigError: it is none of these, or damaged
    :raises HostError: skopeo is missing, or fails
    """
    scheme = next((each for each in SCHEMES if name.startswith(each)), "")
    if scheme in ("oci:", "oci-archive:", "docker-archive:"):
        name = name.removeprefix(scheme)
    elif scheme:
        return open_layout(_copy(name, folder), "image", name)
    path, _, tag = name.partition(":")
    if not scheme and root_disks.is_disk(name) and (root_disks.file_system(name) or not os.path.isfile(name)):
        return os.path.abspath(name)
    for each, of in ((name, ""), (path, tag)):
        if os.path.isfile(each):
            return _open_archive(each, of, folder)
        if os.path.isfile(os.path.join(each, "oci-layout")):
            return open_layout(each, of)
    if not scheme and os.path.isdir(name):
        return os.path.abspath(name)
    raise ConfigError(
        f"{name}: not a folder, disk, OCI layout or archive",
        code="image",
        hint="an image of a registry is docker://docker.io/library/debian",
    )


def remove(folder: str) -> None:
    """Remove a folder into which an image was unpacked, with everything that a container has made there: directories
    deeper than a path is long, or without permissions."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        pass
    if os.path.lexists(folder):
        if os.geteuid():
            subprocess.run(["chmod", "-R", "u+rwx", "--", folder], stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL)


def _copy(source: str, folder: str) -> str:
    layout = os.path.join(folder, "layout")
    kind, _, path = source.partition(":")
    if kind == "dir":
        _check_dir(path)
    run_tool(["skopeo", "copy", "--quiet", "--insecure-policy", source, f"oci:{layout}:image"], source)
    return layout


def _check_dir(path: str) -> None:
    """skopeo waits for ever for a FIFO."""
    try:
        with os.scandir(path) as entries:
            other = next((each.name for each in entries if not each.is_file(follow_symlinks=False)), "")
    except OSError as error:
        raise ConfigError(f"dir:{path}: {error.strerror}", code="image") from error
    if other:
        raise ConfigError(f"dir:{path}: {other} is not a file", code="image")


def run_tool(command: list[str], what: str, *, show: bool = False) -> None:
    """Run a program that fetches or makes an image.

    :param what: begins messages
    :param show: print its output, which is progress, on this process's standard error
    :raises HostError: it is not installed, fails, or takes longer than :data:`TIMEOUT_S`
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE_MOST, SIZE_MOST))
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if show else subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            preexec_fn=limit,
        )
    except FileNotFoundError as error:
        raise HostError(
            f"{what}: {command[0]} is not installed", code="image", hint=f"apt-get install {command[0]}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{what}: {command[0]} did not end in {TIMEOUT_S:g} s", code="image") from error
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()
        reason = _REASON.findall(words)
        if reason:
            words = reason[-1].replace('\\"', '"')
        hint = next((hint for word, hint in _HINTS if word in words), "")
        raise HostError(f"{what}: {command[0]} failed: {words[-500:]}", code="image", hint=hint)


# ---- archives and layouts ------------------------------------------------------------------------------------------


def _open_archive(path: str, tag: str, folder: str) -> Image:
    inside = tempfile.mkdtemp(prefix="archive-", dir=folder)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", code="image") from error
    try:
        unpack([Layer("archive")], [file], inside, path, owners=False)
    except ConfigError as error:
        raise ConfigError(
            f"{path}: no archive of an image: {error}",
            code="image",
            hint=error.hint or "a disk is known by its file system: ext4, erofs or squashfs",
        ) from error
    finally:
        os.close(file)
    if os.path.lexists(os.path.join(inside, "oci-layout")):
        return open_layout(inside, tag, path)
    if os.path.lexists(os.path.join(inside, "manifest.json")):
        return _open_docker(inside, tag, path)
    raise ConfigError(f"{path}: an archive, but of no image", code="image", hint="`docker save` makes one")


class _Layout:
    """A directory with an image, from which nothing leads out."""

    def __init__(self, path: str, what: str) -> None:
        self.what = what
        self._directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._directory)

    def open(self, name: str) -> int:
        """
        :raises ConfigError: there is no such file in it
        """
        try:
            return safe_open.open_file(self._directory, name)
        except (OSError, ValueError) as error:
            raise self.damaged(name, getattr(error, "strerror", "") or str(error)) from error

    def read(self, name: str, digest: str = "") -> Any:
        """The content of a JSON file.

        :raises ConfigError: there is none
        """
        content = self.read_bytes(name)
        if digest:
            kind, _, wanted = digest.partition(":")
            if hashlib.new(kind, content).hexdigest() != wanted:
                raise self.damaged(name, "its content does not match its digest")
        return self.parse(name, content)

    def read_bytes(self, name: str) -> bytes:
        """
        :raises ConfigError: there is no such file, or it is too large
        """
        try:
            return safe_open.read_file(self._directory, name, _JSON_MOST)
        except (OSError, ValueError) as error:
            raise self.damaged(name, getattr(error, "strerror", "") or str(error)) from error

    def parse(self, name: str, content: bytes) -> Any:
        """
        :raises ConfigError: it is not JSON
        """
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self.damaged(name, f"not JSON: {error}") from error

    def damaged(self, name: str, problem: str) -> ConfigError:
        text = f"{self.what}: {name[:200]}: {problem[:300]}"
        return ConfigError("".join(one if one.isprintable() else repr(one)[1:-1] for one in text), code="image")

    def blob(self, descriptor: Any) -> tuple[str, str]:
        """The path and digest of the file that *descriptor* names (descriptor.md).

        :raises ConfigError: it names nothing
        """
        digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise self.damaged("digest", f"{digest!r:.100} is not one of SHA-256 or SHA-512")
        kind, _, value = digest.partition(":")
        return f"blobs/{kind}/{value}", digest


class Image:
    """An image that is not unpacked yet.  To be closed, as a context manager.

    :ivar id: ``sha256:`` and the digest of its configuration, which names the digests of all layers
    """

    def __init__(self, layout: _Layout, digest: str, config: Json, blobs: list[tuple[str, str, bool]]) -> None:
        self.id = digest
        self._layout = layout
        self._config = config
        self._blobs = blobs
        """The path of each layer in the layout, its digest, and whether that is of the unpacked layer."""

    def unpack(self, folder: str) -> tuple[str, Json]:
        """The root file system, a new directory in *folder*, and the ``process`` of the image.

        :raises ConfigError: it is damaged
        :raises HostError: it is too large, or the host refuses a file of it
        """
        return _unpack(self._layout, self._config, self._blobs, folder)

    def close(self) -> None:
        self._layout.close()

    def __enter__(self) -> Image:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def open_layout(path: str, tag: str, what: str = "") -> Image:
    """The image of an OCI layout.

    :param tag: its name there; empty: the only image
    :param what: begins messages, instead of the path
    :raises ConfigError: there is no such image, or it is damaged
    """
    layout = _Layout(path, what or (f"{path}:{tag}" if tag else path))
    try:
        manifest = _manifest(layout, tag)
        name, digest = layout.blob(manifest.get("config"))
        config = _dict(layout.read(name, digest))
        layers = _list(manifest.get("layers"))
        blobs = [layout.blob(each) for each in layers[: _LAYERS_MOST + 1]]
        return Image(layout, digest, config, [(name, digest, False) for name, digest in blobs])
    except BaseException:
        layout.close()
        raise


def _manifest(layout: _Layout, tag: str) -> Json:
    """The manifest of the image with this tag; of the one with a tag, if none is given (image-layout.md).

    :raises ConfigError: there are none, or several
    """
    found = _list(_dict(layout.read("index.json")).get("manifests"))
    tags = [str((_dict(_dict(each).get("annotations"))).get(_TAG) or "") for each in found]
    if not tag:
        named = [each for each in tags if each]
        if len(named) != 1 and len(found) != 1:
            raise ConfigError(
                f"{layout.what}: {len(named)} images with a name",
                code="image",
                hint=f"say which: {layout.what}:{(named or ['TAG'])[0]}",
            )
        tag = (named or [""])[0]
    if tag not in tags:
        raise ConfigError(f"{layout.what}: no image {tag!r}", code="image", hint=f"it has: {', '.join(tags)[:200]}")
    entry: Any = found[tags.index(tag)]
    for _ in range(_INDEXES_MOST):
        manifest = _dict(layout.read(*layout.blob(entry)))
        if "manifests" not in manifest:
            return manifest
        entries = [_dict(each) for each in _list(manifest["manifests"])]
        fit = [each for each in entries if _dict(each.get("platform")).get("architecture") == "amd64"]
        if not fit and len(entries) != 1:
            raise ConfigError(f"{layout.what}: no image for amd64", code="image")
        entry = (fit or entries)[0]
    raise layout.damaged("index.json", "indexes of indexes")


def _open_docker(path: str, tag: str, what: str) -> Image:
    """The format of `docker save` before OCI layouts."""
    layout = _Layout(path, what)
    try:
        images = [_dict(each) for each in _list(layout.read("manifest.json"))]
        if tag:
            images = [each for each in images if any(str(one).endswith(tag) for one in _list(each.get("RepoTags")))]
        if len(images) != 1:
            raise ConfigError(f"{what}: {len(images)} images", code="image", hint="save one: docker save IMAGE")
        content = layout.read_bytes(str(images[0].get("Config")))
        config = _dict(layout.parse(str(images[0].get("Config")), content))
        names = [str(each) for each in _list(images[0].get("Layers"))]
        digests = [str(each) for each in _list(_dict(config.get("rootfs")).get("diff_ids"))]
        if len(names) != len(digests) or not all(_DIGEST.fullmatch(each) for each in digests):
            raise layout.damaged("manifest.json", f"{len(names)} layers, and {len(digests)} digests")
        blobs = [(*each, True) for each in zip(names, digests, strict=True)]
        return Image(layout, f"sha256:{hashlib.sha256(content).hexdigest()}", config, blobs)
    except BaseException:
        layout.close()
        raise


def _unpack(layout: _Layout, config: Json, blobs: list[tuple[str, str, bool]], folder: str) -> tuple[str, Json]:
    if len(blobs) > _LAYERS_MOST:
        raise layout.damaged("layers", f"more than {_LAYERS_MOST}")
    rootfs = os.path.join(folder, "rootfs")
    os.mkdir(rootfs, 0o755)
    wanted = _dict(config.get("config"))
    user = wanted.get("User") or ""
    files: list[int] = []
    try:
        layers = []
        for number, (name, digest, unpacked) in enumerate(blobs):
            files.append(layout.open(name))
            layers.append(Layer(f"layer {number + 1} of {len(blobs)}", digest, unpacked))
        found = unpack(layers, files, rootfs, layout.what, owners=os.geteuid() == 0, user=str(user)[:1000])
    finally:
        for each in files:
            os.close(each)
    return rootfs, _process(layout, wanted, found)


def _process(layout: _Layout, wanted: Json, found: Report) -> Json:
    """The parts of config.json that come from an image's configuration (config.md, "Properties"; conversion.md)."""
    words: dict[str, Any] = {}
    for key in ("Entrypoint", "Cmd", "Env"):
        words[key] = wanted.get(key) or []
        if not isinstance(words[key], list) or not all(isinstance(each, str) for each in words[key]):
            raise layout.damaged(f"config.{key}", "not a list of texts")
    cwd = wanted.get("WorkingDir") or "/"
    if not isinstance(cwd, str) or not cwd.startswith("/"):
        raise layout.damaged("config.WorkingDir", f"{cwd!r:.100} is not an absolute path")
    user: Json = {key: found.get(key) for key in ("uid", "gid", "additionalGids")}
    ids = [user["uid"], user["gid"], *_list(user["additionalGids"])]
    home = found.get("home")
    # The unpacker, which read a file from an untrusted author, reports it
    if not all(isinstance(each, int) and 0 <= each < 0xFFFFFFFF for each in ids) or not isinstance(home, str):
        raise layout.damaged("config.User", "no user")
    env = dict(entry.partition("=")[::2] for entry in [*_ENV, *words["Env"]])
    env.setdefault("HOME", home)
    return {
        "args": [*words["Entrypoint"], *words["Cmd"]],
        "env": [f"{name}={value}" for name, value in env.items() if name],
        "cwd": cwd,
        "user": user,
    }


def unpack(
    layers: Sequence[Layer],
    files: Sequence[int],
    root: str,
    what: str,
    *,
    owners: bool,
    user: str | None = None,
    seconds: float = 0.0,
) -> Report:
    """Unpack *layers*, with the descriptors *files*, into *root*, in a process that reaches nothing else.

    :param owners: set the owners of files; only root can
    :param user: find the ids of this user: see :func:`~pyvmm_kata.bundle.image_layers.find_user`
    :param seconds: the time limit; 0: :data:`TIMEOUT_S`
    :raises VmmError: it cannot be
    """

    def work(own: list[int], tell: Callable[[Report], None]) -> Report:
        unpacker = Unpacker(Quota(SIZE_MOST, ENTRIES_MOST), owners, tell)
        for layer, fd in zip(layers, own, strict=True):
            unpacker.unpack(layer, fd)
        return {} if user is None else find_user(user)

    progress = _Progress(what) if sys.stderr is not None and sys.stderr.isatty() else None
    try:
        return run_in(root, files, work, Limits(seconds or TIMEOUT_S, SIZE_MOST), what, progress)
    finally:
        if progress is not None:
            progress.clear()


class _Progress:
    """Shows progress on a terminal, if it takes a while."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._next = time.monotonic() + 2
        self._shown = False

    def __call__(self, report: Report) -> None:
        size = report.get("size")
        if time.monotonic() < self._next or not isinstance(size, int):
            return
        self._next, self._shown = time.monotonic() + 1, True
        print(f"\r\x1b[Kunpacking {self._what}: {size >> 20} MiB", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
