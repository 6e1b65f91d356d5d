"""Machines whose programs run on this host, below the root of their sandbox, so that copies have files of their own.

What the root lacks is the host's: its programs, and this checkout.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.sandbox import fake_machines

PLACES = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/proc", "/dev", "/sys", str(fake_machines.ROOT)]
ENTER = """
root=$1 count=$2; shift 2
while [ $count -gt 0 ]; do
    [ ! -e "$1" ] || { mkdir -p "$root$1" && mount --rbind "$1" "$root$1"; }
    shift; count=$((count - 1))
done
exec chroot "$root" "$@"
"""
EXECUTE = """
mount --bind "$1" "$1" && mount -o remount,bind,exec "$1"
"""
"""A machine's share has no programs of its host. Here its host runs them."""


@functools.cache
def rooted_machines(*, own_programs: bool = False) -> None:
    """From now on, sandboxes of this process have such machines.

    :param own_programs: they can run the files that they write
    """
    from pyvmm_kata.host.mounts import GUEST_SHARED
    from tests.kata import fake_agent, fake_relay

    fake_machines.fake_machines()
    fake_relay.install()
    create, execute = fake_agent.FakeAgent.do_CreateContainer, fake_agent.FakeAgent.do_ExecProcess
    placed: Any = fake_agent.FakeProcess
    root = [""]
    script = (EXECUTE if own_programs else "") + ENTER

    class RootedProcess(placed):  # type: ignore[misc]
        def __init__(self, process: dict[str, Any]) -> None:
            super().__init__(process)
            if root[0]:
                enter = ["unshare", "-m", "sh", "-c", script, "sh", root[0], str(len(PLACES)), *PLACES]
                self.args = [*enter, *vars(self)["args"]]

    def do_create(self: Any, request: Any, call: Any) -> None:
        create(self, request, call)
        spec = self.specs[request.container_id]
        spec["process"]["root"] = os.path.relpath(spec["root"]["path"], GUEST_SHARED)  # the copies' too

    def do_exec(self: Any, request: Any, call: Any) -> None:
        (spec,) = self.specs.values()
        root[0] = os.path.join(self.shared, spec["process"]["root"])
        execute(self, request, call)

    fake_agent.FakeProcess = RootedProcess  # type: ignore[misc]
    kind: Any = fake_agent.FakeAgent
    kind.do_CreateContainer, kind.do_ExecProcess = do_create, do_exec


def prepare(place: Path) -> str:
    """Make what a sandbox needs, and all of them use it by default; the name of the image."""
    from pyvmm_sandbox import Sandbox, Template

    fake_machines.prepare(place)
    (place / "rootfs" / "tmp").mkdir(mode=0o1777)
    path = os.path.dirname(sys.executable) + ":" + os.environ["PATH"]
    defaults = {
        **fake_machines.options(place),
        "env": {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYVMM_PLACE": str(place)},
    }
    for call in (Sandbox.__init__, Template.start, Sandbox.list):
        known: Any = call.__kwdefaults__
        known.update({name: value for name, value in defaults.items() if name in known})
    return str(place / "rootfs")


def run(place: Path, code: str, timeout: float) -> str:
    """Run a program that begins with such machines; what it prints."""
    begin = "import sys, pathlib; from tests.sandbox.rooted_machines import *; rooted_machines(); "
    begin += "place = pathlib.Path(sys.argv[1]); image = prepare(place)\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", begin + code, str(place)],
        env=fake_machines.environment(place),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    fake_machines.end_programs("PYVMM_PLACE", place)
    assert done.returncode == 0, done.stderr + done.stdout
    assert not [*place.glob("state/*"), *place.glob("pyvmm-*")]
    return done.stdout
