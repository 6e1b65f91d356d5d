"""The root directory of a jail.

Whoever the program ran as before may have left anything in it.  So no step follows a symbolic link in it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import sys

from pyvmm_firecracker.jailer import calls

MODE = 0o700
FOLDERS = ("dev/net", "run")
"""That the program's user owns."""
DEVICES = (
    ("dev/kvm", "/dev/kvm"),
    ("dev/net/tun", "/dev/net/tun"),
    ("dev/userfaultfd", "/dev/userfaultfd"),
    ("dev/null", "/dev/null"),
)
SYSTEM = ("bin", "lib", "lib64", "sbin", "usr")
"""What Python consists of, beside its environment: the program is no file that has everything."""
PACKAGES = ("vmm", "pyvmm_firecracker", "h11")
OLD = ".old-root"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Root:
    """The directory, which is made where it is missing.  Close it.

    :param path: absolute
    :raises OSError: a part of it cannot be made, or is a symbolic link
    """

    def __init__(self, base: str, name: str, identity: str) -> None:
        os.makedirs(base, MODE, exist_ok=True)
        self.path = os.path.join(os.path.realpath(base), name, identity, "root")
        top = os.open(os.path.realpath(base), _DIRECTORY)
        try:
            self._fd = _open_folder(top, f"{name}/{identity}/root", 0o755)
        finally:
            os.close(top)

    def reopen(self) -> None:
        """After a mount on it."""
        os.close(self._fd)
        self._fd = os.open(self.path, _DIRECTORY)

    def copy_program(self, source: str, name: str) -> None:
        """Copy a file into the directory.

        :raises OSError: something else than a file of its own has the name
        """
        try:
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise OSError(f"{self.path}/{name} is a link or no file: remove it")
            os.unlink(name, dir_fd=self._fd)
        fd = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o755, dir_fd=self._fd
        )  # fmt: skip
        with open(source, "rb") as program, os.fdopen(fd, "wb") as made:
            shutil.copyfileobj(program, made)
            os.fchmod(made.fileno(), 0o755)

    def write_pid(self, name: str, pid: int, user: int, group: int) -> None:
        """Write the number of the program's process."""
        self._unlink(name)
        fd = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=self._fd
        )  # fmt: skip
        with os.fdopen(fd, "w") as file:
            file.write(str(pid))
            os.fchown(fd, user, group)

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            pass

    def fill(self, user: int, group: int) -> None:
        """Make directories and devices, and mount what Python needs.

        :raises OSError: it cannot be
        """
        os.fchown(self._fd, user, group)
        os.fchmod(self._fd, MODE)
        for path in FOLDERS:
            self._make_folders(path, user, group)
        for path, source in DEVICES:
            self._make_device(path, source, user, group)
        for name in SYSTEM:
            self._show_system(name)
        for place in python_folders():
            self._show(place)

    def _make_folders(self, path: str, user: int, group: int) -> None:
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            fd = _open_folder(self._fd, "/".join(parts[:count]), MODE)
            os.fchown(fd, user, group)
            os.close(fd)

    def _make_device(self, path: str, source: str, user: int, group: int) -> None:
        try:
            number = os.stat(source).st_rdev
        except FileNotFoundError:
            return
        folder, name = os.path.split(path)
        fd = _open_folder(self._fd, folder, MODE)
        try:
            try:
                os.unlink(name, dir_fd=fd)
            except FileNotFoundError:
                pass
            os.mknod(name, 0o600 | stat.S_IFCHR, number, dir_fd=fd)
            self._give(fd, name, number, user, group)
        finally:
            os.close(fd)

    def _give(self, folder: int, name: str, number: int, user: int, group: int) -> None:
        """Change the owner of a device, unless the owner of its directory has put something else in its place."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            found = os.fstat(fd)
            if not stat.S_ISCHR(found.st_mode) or found.st_rdev != number:
                raise OSError(f"{name} was replaced meanwhile: end the processes of user {user} that use {self.path}")
            os.chown(f"/proc/self/fd/{fd}", user, group)
        finally:
            os.close(fd)

    def _show_system(self, name: str) -> None:
        source = f"/{name}"
        if os.path.islink(source):
            self._unlink(name)
            os.symlink(os.readlink(source), name, dir_fd=self._fd)
        elif os.path.isdir(source):
            self._show(source)

    def _show(self, source: str) -> None:
        """Mount a directory of the host at the same place, for reading."""
        fd = _open_folder(self._fd, source.lstrip("/"), 0o755)
        try:
            calls.mount(source, f"/proc/self/fd/{fd}", "", calls.MS_BIND)
        finally:
            os.close(fd)
        fd = _open_folder(self._fd, source.lstrip("/"), 0o755)  # what is mounted there now
        try:
            flags = calls.MS_BIND | calls.MS_REMOUNT | calls.MS_RDONLY | calls.MS_NOSUID | calls.MS_NODEV
            calls.mount("", f"/proc/self/fd/{fd}", "", flags)
        finally:
            os.close(fd)

    def enter(self) -> None:
        """Make it the root of this process, whose mounts are its own.

        :raises OSError: it cannot be
        """
        os.fchdir(self._fd)
        fd = _open_folder(self._fd, OLD, MODE)
        os.close(fd)
        calls.pivot_root(".", OLD)
        os.chdir("/")
        calls.unmount(f"/{OLD}")
        os.rmdir(f"/{OLD}")
        os.chroot(".")

    def mount_processes(self) -> None:
        """Show the processes of this process's namespace, those of others without what they do.

        :raises OSError: it cannot be
        """
        fd = _open_folder(self._fd, "proc", 0o755)
        flags = calls.MS_NOSUID | calls.MS_NODEV | calls.MS_NOEXEC
        try:
            os.fchdir(fd)
            calls.mount("proc", ".", "proc", flags, "hidepid=2")
        finally:
            os.chdir("/")
            os.close(fd)

    def close(self) -> None:
        os.close(self._fd)


def _open_folder(top: int, path: str, mode: int) -> int:
    """A directory below another, made where it is missing; no part of the path is a symbolic link.

    :raises OSError: one is, or it cannot be made
    """
    at = os.dup(top)
    for part in path.split("/"):
        try:
            os.mkdir(part, mode, dir_fd=at)
        except FileExistsError:
            pass
        try:
            below = os.open(part, _DIRECTORY, dir_fd=at)
        except NotADirectoryError as error:
            raise OSError(f"{part} of {path} is a link or no directory: remove it") from error
        finally:
            os.close(at)
        at = below
    return at


def python_folders() -> list[str]:
    """Directories of this Python that are not below one of :data:`SYSTEM`, the outer ones alone."""
    found = {sys.prefix, sys.exec_prefix, sys.base_prefix}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        found |= {*(spec.submodule_search_locations or ())} if spec is not None else set()
    kept: list[str] = [f"/{name}" for name in SYSTEM]
    for path in sorted({os.path.realpath(each) for each in found}, key=len):
        if not any(path == each or path.startswith(f"{each}/") for each in kept):
            kept.append(path)
    return kept[len(SYSTEM) :]
