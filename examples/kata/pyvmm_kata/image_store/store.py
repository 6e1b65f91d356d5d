"""A directory of images: each is one erofs file, named by the image's digest, and never changes.

::

    images/HEX.erofs      the file system; locked (shared) by each machine that uses it
    images/HEX.json       what is known of it; written last, so an image without it does not exist
    names/QUOTED          the digest that a name refers to
    downloads/HEX/        the OCI layout of a pull that is not complete; the next pull of the name continues it
    work/                 file systems that are being made, each locked by its maker

A name, an image and its record appear by rename, after their contents are on disk.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

from pyvmm_kata.bundle import images
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host.confinement import Limits
from pyvmm_kata.host.jailed_program import run_program
from pyvmm_kata.image_store.names import full_name
from pyvmm_kata.state import is_of_a_user

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyvmm_kata.state import Json

SYSTEM_STORE = "/var/lib/pyvmm/images"
ALIGNMENT = 2 << 20
"""Of the size of an image: virtio-pmem maps whole huge pages."""
_UUID = "00000000-0000-0000-0000-000000000000"
_SHORTEST_ID = 4
_ID = re.compile(r"(sha256:)?([0-9a-f]{4,64})")
_RECORD_MOST = 4 << 20
MKFS_LIMITS = Limits(images.TIMEOUT_S, 2 * images.SIZE_MOST)
"""Of the program that reads the unpacked files, whose author is not trusted."""


def default_store() -> str:
    """The directory for images: of the system for root, else of the user."""
    if not is_of_a_user():
        return SYSTEM_STORE
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data, "pyvmm", "images")


class StoredImage(NamedTuple):
    """An image of the store.

    :ivar id: ``sha256:`` and 64 digits
    :ivar path: the erofs file
    :ivar names: whole names that refer to it
    :ivar size: of the file, in bytes
    :ivar created: when it was stored, in seconds since 1970
    :ivar process: what runs by default: the ``process`` of a config.json
    """

    id: str
    path: str
    names: tuple[str, ...]
    size: int
    created: float
    process: Json


class Registry(NamedTuple):
    """How to reach the registry of a pull; see ``pyvmm image pull --help`` for each."""

    authfile: str = ""
    credentials: str = ""
    certificates: str = ""
    tls_verify: bool = True

    def options(self, host: str, folder: str) -> list[str]:
        """Options of skopeo.

        :param host: the registry
        :param folder: for a file with the credentials: any user can read a command line
        """
        found = []
        authfile = self.authfile
        if self.credentials:
            authfile = os.path.join(folder, "auth.json")
            secret = base64.b64encode(self.credentials.encode()).decode()
            with open(os.open(authfile, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                json.dump({"auths": {host: {"auth": secret}}}, file)
        if authfile:
            found += ["--authfile", authfile]
        if self.certificates:
            found += ["--src-cert-dir", self.certificates]
        if not self.tls_verify:
            found += ["--src-tls-verify=false"]
        return found


ANY = Registry()
"""As the user's configuration of skopeo describes it."""


class ImageStore:
    """
    :param root: its directory, made if it is missing; empty: :func:`default_store`
    :raises HostError: it cannot be made
    """

    def __init__(self, root: str = "") -> None:
        self.root = os.path.abspath(root or default_store())
        try:
            for name in ("images", "names", "downloads", "work"):
                os.makedirs(self._at(name), mode=0o700, exist_ok=True)
        except OSError as error:
            raise HostError(f"the image store {self.root}: {error.strerror}", code="image-store") from error

    # ---- what there is -------------------------------------------------------------------------------------------

    def all_images(self) -> list[StoredImage]:
        """All images, the newest first."""
        names = self._names()
        records = [name for name in os.listdir(self._at("images")) if name.endswith(".json")]
        found = [self._read(record.removesuffix(".json"), names) for record in records]
        return sorted((each for each in found if each is not None), key=lambda each: (-each.created, each.id))

    def find(self, name: str) -> StoredImage | None:
        """The image with this name, or with an id that begins so; None: there is none.

        :raises ConfigError: several ids begin so
        """
        names = self._names()
        with contextlib.suppress(ConfigError):
            if digest := names.get(full_name(name)):
                return self._read(digest.removeprefix("sha256:"), names)
        short = _ID.fullmatch(name)
        if not short:
            return None
        found = [each for each in self.all_images() if each.id.removeprefix("sha256:").startswith(short[2])]
        if len(found) > 1:
            raise ConfigError(f"{name}: {len(found)} images begin so", code="image-ambiguous", hint="write more of it")
        return found[0] if found else None

    def get(self, name: str) -> StoredImage:
        """
        :raises ConfigError: there is no such image, or several
        """
        found = self.find(name)
        if found is None:
            raise ConfigError(
                f"no image {name!r:.200} in {self.root}", code="image-none", hint=f"pyvmm image pull {name}"
            )
        return found

    @contextlib.contextmanager
    def in_use(self, image: StoredImage) -> Iterator[StoredImage]:
        """While it lasts, the image cannot be removed.

        :raises ConfigError: it has been removed
        """
        try:
            fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ConfigError(f"image {image.id} has been removed", code="image-none") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            if not os.path.exists(image.path):
                raise ConfigError(f"image {image.id} has been removed", code="image-none")
            yield image
        finally:
            os.close(fd)

    # ---- new images ----------------------------------------------------------------------------------------------

    def pull(self, name: str, registry: Registry = ANY, *, show: bool = False) -> StoredImage:
        """Copy an image of a registry.  A pull that was interrupted continues with the layers that it has.

        :param show: print the progress on standard error
        :raises ConfigError: the name or the image is invalid
        :raises HostError: the registry cannot be reached or refuses, or there is no room
        """
        whole = full_name(name)
        layout = self._at("downloads", hashlib.sha256(whole.encode()).hexdigest())
        with _locked(layout), self._work() as folder:
            quiet = [] if show else ["--quiet"]
            source = f"docker://{whole}"
            options = registry.options(whole.partition("/")[0], folder)
            command = ["skopeo", "copy", *quiet, "--insecure-policy", *options]
            images.run_tool([*command, source, f"oci:{layout}:image"], source, show=show)
            with images.open_layout(layout, "image", whole) as image:
                found = self._store(image)
            self._set_name(whole, found)
            shutil.rmtree(layout, ignore_errors=True)
        return self.get(found)

    def add(self, source: str, name: str = "") -> StoredImage:
        """Copy an image that is on this host: an OCI layout, an archive, or a folder with a root file system.

        :param source: as for :func:`pyvmm_kata.bundle.images.find_image`
        :param name: the name that it gets; empty: none
        :raises ConfigError: the source or the name is invalid
        :raises HostError: it cannot be read, or there is no room
        """
        whole = full_name(name) if name else ""
        with self._work() as folder:
            image = images.find_image(source, folder)
            if not isinstance(image, str):
                with image:
                    found = self._store(image)
            elif os.path.isdir(image):
                found = self._add_folder(image, folder)
            else:
                raise ConfigError(
                    f"{source}: a disk is not copied", code="image-disk", hint=f"run it: pyvmm run {source} COMMAND"
                )
        if whole:
            self._set_name(whole, found)
        return self.get(found)

    def build(self, context: str, name: str, *, file: str = "", options: Sequence[str] = ()) -> StoredImage:
        """Build an image from a Dockerfile, with buildah.

        :param context: the directory whose files the Dockerfile can copy
        :param file: the Dockerfile; empty: ``Containerfile`` or ``Dockerfile`` in the context
        :param options: more options of ``buildah build``
        :raises ConfigError: the name is invalid
        :raises HostError: buildah is missing or fails, or there is no room
        """
        whole = full_name(name)
        if not os.path.isdir(context):
            raise ConfigError(f"{context}: not a directory", code="image-build", hint="pyvmm image build DIR NAME")
        with self._work() as folder:
            layout, ids = os.path.join(folder, "layout"), os.path.join(folder, "id")
            given = ["--file", file] if file else []
            images.run_tool(["buildah", "build", *given, *options, "--iidfile", ids, context], context, show=True)
            with open(ids, encoding="ascii") as id_file:
                built = id_file.read().strip()
            try:
                images.run_tool(["buildah", "push", "--quiet", built, f"oci:{layout}:image"], context)
            finally:
                subprocess.run(["buildah", "rmi", built], stdin=subprocess.DEVNULL, capture_output=True)
            with images.open_layout(layout, "image", context) as image:
                found = self._store(image)
        self._set_name(whole, found)
        return self.get(found)

    def _store(self, image: images.Image) -> str:
        """Make the file of an image, unless it is there; returns its id."""
        hexadecimal = image.id.removeprefix("sha256:")
        if self._read(hexadecimal, {}) is None:
            with self._work() as folder:
                root, process = image.unpack(folder)
                made = os.path.join(folder, "image.erofs")
                _make_erofs(root, made, all_root=os.geteuid() != 0)
                self._put(hexadecimal, made, process)
        return image.id

    def _add_folder(self, root: str, folder: str) -> str:
        """The id is the digest of the file, which is the same for the same files."""
        made = os.path.join(folder, "image.erofs")
        _make_erofs(root, made, all_root=False)
        with open(made, "rb") as file:
            hexadecimal = hashlib.file_digest(file, "sha256").hexdigest()
        if self._read(hexadecimal, {}) is None:
            self._put(hexadecimal, made, {})
        return f"sha256:{hexadecimal}"

    def _put(self, hexadecimal: str, made: str, process: Json) -> None:
        final = self._at("images", f"{hexadecimal}.erofs")
        with open(made, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(made, 0o444)
        os.replace(made, final)
        record = {"process": process, "created": time.time()}
        self._write(os.path.join("images", f"{hexadecimal}.json"), json.dumps(record))

    # ---- removal -------------------------------------------------------------------------------------------------

    def remove(self, name: str) -> tuple[StoredImage, bool]:
        """Remove a name; with its last name, or by its id, the image too.

        :returns: the image, and whether it was removed with its name
        :raises ConfigError: there is no such image, or a machine uses it
        """
        image = self.get(name)
        with contextlib.suppress(ConfigError):
            if (whole := full_name(name)) in image.names and len(image.names) > 1:
                self._unlink("names", quote(whole, safe=""))
                return image, False
        if not self._remove(image):
            raise ConfigError(f"image {name} is in use", code="image-used", hint="a running machine has it as its root")
        return image, True

    def prune(self, *, unused: bool = False) -> tuple[list[StoredImage], int]:
        """Remove what interrupted commands have left, and images without a name.

        :param unused: images that no machine uses, as well
        :returns: the images, and the bytes that were freed
        """
        gone = [each for each in self.all_images() if (unused or not each.names) and self._remove(each)]
        freed = sum(each.size for each in gone)
        kept = {each.id.removeprefix("sha256:") for each in self.all_images()}
        for name in os.listdir(self._at("images")):
            if name.partition(".")[0] not in kept and _old(self._at("images", name)):
                freed += _size(self._at("images", name))
                self._unlink("images", name)
        for name, digest in self._names().items():
            if digest.removeprefix("sha256:") not in kept:
                self._unlink("names", quote(name, safe=""))
        for part in ("work", "downloads"):
            for name in os.listdir(self._at(part)):
                freed += _remove_unlocked(self._at(part, name))
        return gone, freed

    def _remove(self, image: StoredImage) -> bool:
        """False: it is in use."""
        hexadecimal = image.id.removeprefix("sha256:")
        try:
            fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._unlink("images", f"{hexadecimal}.json")
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in image.names:
                self._unlink("names", quote(name, safe=""))
            self._unlink("images", f"{hexadecimal}.json")
            self._unlink("images", f"{hexadecimal}.erofs")
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    # ---- files ---------------------------------------------------------------------------------------------------

    def _at(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def _names(self) -> dict[str, str]:
        found = {}
        for name in os.listdir(self._at("names")):
            if not name.startswith("."):
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    with open(self._at("names", name), encoding="ascii") as file:
                        found[unquote(name)] = file.read(100).strip()
        return found

    def _set_name(self, name: str, digest: str) -> None:
        self._write(os.path.join("names", quote(name, safe="")), digest)

    def _read(self, hexadecimal: str, names: dict[str, str]) -> StoredImage | None:
        path, digest = self._at("images", f"{hexadecimal}.erofs"), f"sha256:{hexadecimal}"
        try:
            with open(self._at("images", f"{hexadecimal}.json"), encoding="utf-8") as file:
                record: Any = json.loads(file.read(_RECORD_MOST))
            size = os.stat(path).st_size
            own = tuple(sorted(name for name, of in names.items() if of == digest))
            return StoredImage(digest, path, own, size, float(record["created"]), dict(record["process"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, name: str, text: str) -> None:
        """Write a file as a whole or not at all."""
        fd, made = tempfile.mkstemp(prefix=".", dir=os.path.dirname(self._at(name)))
        try:
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(made, self._at(name))
            _sync(os.path.dirname(self._at(name)))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(made)
            raise

    def _unlink(self, *parts: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._at(*parts))

    @contextlib.contextmanager
    def _work(self) -> Iterator[str]:
        """A new directory, which is removed at the end."""
        folder = tempfile.mkdtemp(dir=self._at("work"))
        with _locked(folder):
            try:
                yield folder
            except OSError as error:
                raise HostError(f"the image store {self.root}: {error}", code="image-store") from error
            finally:
                images.remove(folder)


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Waits for another process that has it."""
    while True:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(folder)):
                break
        os.close(fd)  # that process has removed it
    try:
        yield
    finally:
        os.close(fd)


def _make_erofs(root: str, path: str, *, all_root: bool) -> None:
    """Write the file system; not compressed, so that machines map its pages, and the same for the same files."""
    options = [
        "-T0",
        "--mkfs-time",
        f"-U{_UUID}",
        "--preserve-mtime",
        "-Enoinline_data",
        *(["--all-root"] if all_root else []),
    ]
    with open(path, "xb"):
        pass
    words = ["--quiet", *options, "/output", "/tree"]
    run_program(_find_erofs("mkfs.erofs"), words, {"tree": root}, path, MKFS_LIMITS, "mkfs.erofs")
    os.truncate(path, (os.stat(path).st_size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)


def _find_erofs(program: str) -> str:
    """The path of a tool.

    :raises HostError: it is not installed
    """
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if not found:
        raise HostError(f"{program} is not installed", code="image-erofs", hint="apt-get install erofs-utils")
    return os.path.realpath(found)


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _size(path: str) -> int:
    """Bytes on disk of a file or of all files in a folder."""
    total = 0
    with contextlib.suppress(OSError):
        total = os.lstat(path).st_blocks * 512
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def _old(path: str) -> bool:
    """It is not just being put into place."""
    try:
        return time.time() - os.stat(path).st_mtime > 3600
    except OSError:
        return False


def _remove_unlocked(folder: str) -> int:
    """Remove a folder, unless another process works in it; returns the bytes that were freed."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = _size(folder)
        images.remove(folder)
        return size
    except BlockingIOError:
        return 0
    finally:
        os.close(fd)
