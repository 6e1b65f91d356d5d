"""pyvmm-oci of an ordinary user, in the user namespace that podman would make for one; programs run on the host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm_kata.oci.spec import default_spec
from tests.kata.oci_runtime import PATIENCE, PROGRAM

USER = 47110
BECOME = ("setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups")
NAMESPACE = (*BECOME, "unshare", "--user", "--map-root-user", "--mount")


def can_be_a_user() -> bool:
    """Whether an ordinary user may make namespaces here, and read this checkout."""
    if os.geteuid() != 0:
        return False
    probe = [*NAMESPACE, sys.executable, "-c", f"open({str(PROGRAM)!r})"]
    try:
        return subprocess.run(probe, capture_output=True).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not can_be_a_user(), reason="needs root, and user namespaces for ordinary users")


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the user's, with a bundle."""
    path = Path(tempfile.mkdtemp(prefix="pyvmm-user-"))
    for name in ("run", "bundle/rootfs"):
        (path / name).mkdir(parents=True)
    for each in (path, *path.rglob("*")):
        os.chown(each, USER, USER)
    yield path
    shutil.rmtree(path)


def command(home: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the shell's in the user's namespace: ``$OCI`` is the runtime, ``$BUNDLE`` one that echoes."""
    spec = default_spec(["/bin/sh", "-c", "cat; exit 3"], terminal=False)
    (home / "bundle" / "config.json").write_text(json.dumps(spec))
    oci = f"{sys.executable} {PROGRAM}"
    environment = {"PATH": os.environ["PATH"], "OCI": oci, "BUNDLE": str(home / "bundle"), **variables}
    return subprocess.run(
        [*NAMESPACE, "sh", "-c", script], env=environment, input="typed\n", capture_output=True, text=True,
        timeout=PATIENCE, cwd=home,
    )  # fmt: skip


def test_a_container(home: Path) -> None:
    done = command(home, "$OCI run -b $BUNDLE c1", XDG_RUNTIME_DIR=str(home / "run"))
    assert (done.returncode, done.stdout, done.stderr) == (3, "typed\n", "")
    assert os.listdir(home / "run" / "pyvmm-oci") == []


def test_where_its_state_is(home: Path) -> None:
    script = "$OCI create -b $BUNDLE c1 >out 2>&1 </dev/null; $OCI state c1; $OCI delete --force c1"
    done = command(home, f"ls run; {script}; stat -c %a run/pyvmm-oci", XDG_RUNTIME_DIR=str(home / "run"))
    state, mode = done.stdout.rsplit("\n", 2)[:2]
    assert (json.loads(state)["status"], mode) == ("created", "700"), done.stderr
    assert (home / "run" / "pyvmm-oci").stat().st_uid == USER


def test_without_a_folder_of_its_own(home: Path) -> None:
    done = command(home, "$OCI run -b $BUNDLE c1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "Permission denied (an ordinary user needs XDG_RUNTIME_DIR, or --root DIR)" in done.stderr


def test_the_exec_program_looks_there_too(home: Path) -> None:
    """pyvmm-oci-client, which runs the whole program when there is nothing to connect to, finds the same socket."""
    client = Path(__file__).parents[2] / "examples" / "kata" / "pyvmm_kata" / "pyvmm-oci-client"
    script = f"""
mkdir -p run/pyvmm-oci/c1
{sys.executable} - <<'END' &
import socket
sock = socket.socket(socket.AF_UNIX)
sock.bind("run/pyvmm-oci/c1/control")
sock.listen()
peer = sock.accept()[0]
print(peer.recv(100).decode().split(",")[0])
END
while [ ! -S run/pyvmm-oci/c1/control ]; do sleep 0.1; done
sleep 0.2
{client} "" /bin/true "" -- exec c1 true
wait
"""
    done = command(home, script, XDG_RUNTIME_DIR=str(home / "run"))
    assert done.stdout == '{"op": "exec_command"\n', done.stderr
