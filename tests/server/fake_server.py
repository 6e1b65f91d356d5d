"""``pyvmm serve`` with machines that run their programs here: ``fake_server.py PLACE OPTION...``."""

from __future__ import annotations

import os
import sys

from pyvmm_sandbox import Template
from pyvmm_server import command, node
from tests.server import fake_machines
from tests.server.fake_node import FakeNode

place = sys.argv[1]
fake_machines.install(place)
node.Node = FakeNode  # type: ignore[misc]
where = {"config": f"{place}/kata.toml", "root": f"{place}/state"}
# There is a python3 with ipykernel, whose sockets need short paths
env = {"PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin", "TMPDIR": os.environ["PYVMM_FAKE_KERNELS"]}
if not os.path.exists(f"{place}/base"):
    Template.build(f"{place}/base", f"{place}/rootfs", config=where["config"], root=where["root"], env=env)
options = ["--config", where["config"], "--root", where["root"], "--network", "none", "--state", f"{place}/server"]
sys.exit(command.main([*options, "--template", f"base={place}/base", *sys.argv[2:]]))
