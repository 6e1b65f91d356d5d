"""podman as an ordinary user, with pyvmm-oci: in a user namespace of podman's, on its own storage and network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.kata_tools import BIN, PATIENCE, make_rootfs, write_settings
from tests.scripts import WAIT
from tools import guest as recipes

USER, FIRST, COUNT = 47111, 4711000, 65536
KVM = 47112
NEEDED = ("podman", "newuidmap", "newgidmap", "pasta", "slirp4netns", "setpriv", "nsenter", "ip")
ADDRESS = "10.77.0.2"
NETWORK = f"""
ip link set lo up
ip link add up0 address 02:00:00:00:00:55 type veth peer name up1
ip addr add {ADDRESS}/24 dev up0
ip link set up0 up
ip link set up1 up
ip route add default via 10.77.0.1
"""


class User:
    """An ordinary user with podman, in a mount and a network namespace in which there is that user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home, self.runtime = folder / "home", folder / "run"
        for path in (self.home, self.runtime):
            path.mkdir()
            os.chown(path, USER, USER)
        self.runtime.chmod(0o700)
        self._holder = subprocess.Popen(["unshare", "-mn", "sh", "-c", "echo; read line"], stdin=-1, stdout=-1)
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        self._enter = ("nsenter", "-m", "-n", "-t", str(self._holder.pid))
        self._make_user()
        self._make_runtime()
        archive = folder / "box.tar"
        subprocess.run(["tar", "-C", str(make_rootfs(folder / "rootfs")), "-cf", str(archive), "."], check=True)
        (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.check("podman", "import", "--signature-policy", str(folder / "policy.json"), str(archive), "box")

    def _make_user(self) -> None:
        """Only that mount namespace has it."""
        lines = {
            "passwd": Path("/etc/passwd").read_text() + f"u:x:{USER}:{USER}::{self.home}:/bin/sh\n",
            "group": Path("/etc/group").read_text() + f"u:x:{USER}:\nkvmtest:x:{KVM}:u\n",
            "subuid": f"u:{FIRST}:{COUNT}\n",
            "subgid": f"u:{FIRST}:{COUNT}\n",
        }
        binds = []
        for name, text in lines.items():
            (self.folder / name).write_text(text)
            Path("/etc", name).touch()
            binds.append(f"mount --bind {self.folder}/{name} /etc/{name}")
        kvm, fuse = self.folder / "kvm", self.folder / "fuse"
        devices = (
            f"mknod -m 660 {kvm} c 10 232; chown 0:{KVM} {kvm}; mount --bind {kvm} /dev/kvm",
            f"mknod -m 666 {fuse} c 10 229; mount --bind {fuse} /dev/fuse",  # as udev has it, which a lab lacks
        )
        subprocess.run([*self._enter, "sh", "-ec", "\n".join([*binds, *devices, NETWORK])], check=True)

    def _make_runtime(self) -> None:
        for name, path in (("vmlinux", recipes.kernel()), ("kata.erofs", recipes.kata_image())):
            shutil.copy(path, self.folder / name)
            (self.folder / name).chmod(0o644)
        settings = write_settings(self.folder / "kata.toml")
        settings.write_text(
            f'kernel = "{self.folder}/vmlinux"\nimage = "{self.folder}/kata.erofs"\nannotations = ["network"]\n'
        )
        runtime = self.folder / "pyvmm-oci"
        runtime.write_text(f'#!/bin/sh\nexec {BIN}/pyvmm-oci --config {settings} "$@"\n')
        runtime.chmod(0o755)
        config = self.home / ".config" / "containers"
        config.mkdir(parents=True)
        (config / "containers.conf").write_text(
            '[engine]\nruntime = "pyvmm"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'[engine.runtimes]\npyvmm = ["{runtime}"]\n'
        )
        for each in (self.home, *self.home.rglob("*")):
            os.chown(each, USER, USER)

    def run(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        become = ("setpriv", "--reuid", str(USER), "--regid", str(USER), "--groups", str(KVM))
        variables = (
            "env",
            "-i",
            "-C",
            str(self.home),
            f"HOME={self.home}",
            "USER=u",
            f"PATH={os.environ['PATH']}:/usr/sbin:/sbin",
        )
        words = [*self._enter, *become, *variables, f"XDG_RUNTIME_DIR={self.runtime}", *command]
        return subprocess.run(words, input=text, capture_output=True, text=True, timeout=PATIENCE)

    def check(self, *command: str, text: str = "") -> str:
        done = self.run(*command, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def processes(self) -> dict[int, str]:
        """All that run as this user, or with one of the user's ids."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                uid = path.stat().st_uid
                if uid == USER or FIRST <= uid < FIRST + COUNT:
                    found[int(path.name)] = (path / "cmdline").read_text()
            except OSError:
                continue
        return found

    def close(self) -> None:
        self.run("podman", "rm", "--all", "--force", "--time", "1")
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._holder.kill()
        self._holder.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    if os.geteuid() != 0 or not all(shutil.which(name) for name in NEEDED):
        pytest.skip(f"needs root and {', '.join(NEEDED)}")
    folder = Path(tempfile.mkdtemp(prefix="pyvmm-rootless-"))
    folder.chmod(0o755)
    become = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
    if subprocess.run([*become, "test", "-r", str(BIN / "pyvmm-oci")]).returncode:
        pytest.skip("other users cannot read this checkout")
    made = User(folder)
    yield made
    made.close()


def test_run(user: User) -> None:
    script = "cat; id -u; echo more >&2; exit 7"
    done = user.run("podman", "run", "-i", "--rm", "--network", "none", "box", "sh", "-c", script, text="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "typed\n0\n", "more\n")


def test_whose_files_are(user: User) -> None:
    data = user.home / "data"
    user.check("mkdir", "data", "read")
    (user.home / "read" / "file").write_text("there\n")
    script = (
        "echo x >/data/root; touch /data/other; chown 5:6 /data/other; stat -c %u:%g /data/root /data/other; "
        "cat /read/file; touch /read/new /etc/new"
    )
    volumes = ("-v", f"{data}:/data", "-v", f"{user.home}/read:/read:ro")
    done = user.run("podman", "run", "--rm", "--network", "none", *volumes, "box", "sh", "-c", script)
    assert done.stdout == "0:0\n5:6\nthere\n"
    assert done.stderr.strip() == "touch: /read/new: Read-only file system"
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in data.iterdir()}
    assert owners == {"root": (USER, USER), "other": (FIRST + 4, FIRST + 5)}


@pytest.mark.parametrize("network", ["pasta", pytest.param("slirp4netns", marks=pytest.mark.long)])
def test_a_container_in_the_background(user: User, network: str) -> None:
    serve = f"echo a page >/tmp/index.html; trap 'exit 3' TERM; httpd -p 80 -h /tmp; echo ready; {WAIT}"
    options = ("--network", network, "-p", "8080:80")
    user.check("podman", "run", "--detach", "--name", "web", *options, "box", "sh", "-c", serve)
    for address in ("127.0.0.1", ADDRESS):
        deadline = time.monotonic() + PATIENCE
        while (done := user.run("busybox", "wget", "-qO-", "-T10", f"http://{address}:8080/")).stdout != "a page\n":
            assert time.monotonic() < deadline, done.stderr
    assert user.run("podman", "exec", "web", "sh", "-c", "hostname >/tmp/name; exit 5").returncode == 5
    assert user.check("podman", "exec", "-i", "web", "cat", text="piped\n") == "piped\n"
    (user.home / "given").write_text("given\n")
    user.check("podman", "cp", "given", "web:/tmp/given")
    user.check("podman", "cp", "web:/tmp/index.html", "taken")
    assert user.check("podman", "exec", "web", "cat", "/tmp/given") == "given\n"
    assert ((user.home / "taken").read_text(), (user.home / "taken").stat().st_uid) == ("a page\n", USER)
    user.check("podman", "stop", "--time", "60", "web")
    assert user.check("podman", "logs", "web") == "ready\n"
    assert user.check("podman", "inspect", "--format", "{{.State.ExitCode}}", "web") == "3\n"
    user.check("podman", "rm", "web")


IDS = "cat /proc/self/uid_map; id -u; id -g; touch /data/made; stat -c %u:%g /data/made; touch /made || stat -c %u /"


@pytest.mark.parametrize(
    "options, inside",
    [("", USER), pytest.param(":uid=200,gid=210", 200, marks=pytest.mark.long)],
    ids=["", "another"],
)
def test_the_users_own_id(user: User, options: str, inside: int) -> None:
    """In the container it is the user's, or another one, and root of the container nobody in particular."""
    data = user.home / f"kept-{inside}"
    user.check("mkdir", str(data))
    command = ("run", "--rm", "--network", "none", "--userns", f"keep-id{options}", "-v", f"{data}:/data", "box")
    done = user.run("podman", *command, "sh", "-c", IDS)
    group = 210 if options else inside
    rest = COUNT + 1 - (inside + 1)
    mapped = ["0", "1", inside, inside, "0", "1", inside + 1, inside + 1, rest]
    assert done.stdout.split() == [str(word) for word in (*mapped, inside, group, f"{inside}:{group}", 0)]
    assert done.stderr.strip() == "touch: /made: Permission denied"
    assert ((data / "made").stat().st_uid, (data / "made").stat().st_gid) == (USER, USER)


@pytest.mark.long  # the two of it, a server on such a network and a user's own id, have tests of their own
@pytest.mark.parametrize("network", ["pasta", "slirp4netns"])
def test_a_server_with_the_users_own_id(user: User, network: str) -> None:
    """podman makes the network, which belongs to the container's user namespace, when the container is there."""
    site = user.home / f"site-{network}"
    user.check("mkdir", str(site))
    (site / "index.html").write_text("a page\n")
    options = ("--userns", "keep-id", "--network", network, "-p", "8081:80", "-v", f"{site}:/site:ro")
    serve = ("httpd", "-f", "-p", "80", "-h", "/site")
    user.check("podman", "run", "--detach", "--replace", "--name", "kept", *options, "box", *serve)
    for address in ("127.0.0.1", ADDRESS):
        deadline = time.monotonic() + PATIENCE
        while (done := user.run("busybox", "wget", "-qO-", "-T10", f"http://{address}:8081/")).stdout != "a page\n":
            assert time.monotonic() < deadline, done.stderr
    out = user.check("podman", "top", "kept", "pid", "args")
    assert "httpd" in out
    user.check("podman", "rm", "--force", "--time", "1", "kept")


@pytest.mark.long  # half a minute; test_kata_userns.py has mappings, of the superuser
def test_ids_that_podman_chooses(user: User) -> None:
    data = user.home / "chosen"
    user.check("mkdir", str(data))
    command = ("run", "--rm", "--network", "none", "--userns", "auto:size=2000", "-v", f"{data}:/data:U", "box")
    out = user.check("podman", *command, "sh", "-c", IDS).split()
    assert (out[0], out[2:]) == ("0", ["2000", "0", "0", "0:0"])
    owner = FIRST + int(out[1]) - 1
    assert ((data / "made").stat().st_uid, data.stat().st_uid) == (owner, owner)


@pytest.mark.long  # test_kata_face.py has a pod, and this file what an ordinary user may do
def test_a_pod(user: User) -> None:
    user.check("podman", "pod", "create", "--name", "pod")
    serve = "echo of a friend >/tmp/index.html; exec httpd -f -p 80 -h /tmp"
    user.check("podman", "run", "--detach", "--pod", "pod", "box", "sh", "-c", serve)
    fetch = "until wget -qO- http://127.0.0.1/; do sleep 0.1; done 2>/dev/null"
    assert user.check("podman", "run", "--rm", "--pod", "pod", "box", "sh", "-c", fetch) == "of a friend\n"
    user.check("podman", "pod", "rm", "--force", "--time", "1", "pod")


def test_a_network_of_passts(user: User) -> None:
    options = ("--annotation", "io.pyvmm.network=user")
    out = user.check("podman", "run", "--rm", *options, "box", "ip", "-o", "addr", "show", "eth0")
    assert f"inet {ADDRESS}/24" in out


def test_everything_that_is_the_guests(user: User) -> None:
    out = user.check(
        "podman", "run", "--rm", "--network", "none", "--privileged", "box", "mount", "-t", "tmpfs", "x", "/tmp"
    )
    assert out == ""


def test_nothing_is_left(user: User) -> None:
    user.check("podman", "run", "--rm", "--network", "none", "box", "true")
    user.check("podman", "rm", "--all", "--force", "--time", "1")
    deadline = time.monotonic() + PATIENCE
    while left := [path.name for path in (user.runtime / "pyvmm-oci").iterdir()]:
        assert time.monotonic() < deadline, left
    # conmon ends after podman, and the image for the next start is made when there is time
    while left := [line for line in user.processes().values() if "pyvmm" in line]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
