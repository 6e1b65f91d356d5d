"""``pyvmm serve`` with machines that run their programs here: ``fake_server.py PLACE OPTION...``."""

from __future__ import annotations

import os
import sys

from pyvmm_kata.image_store import store as image_store
from pyvmm_kata.pod import sandbox as machines
from pyvmm_sandbox import Template, guest, isolations
from pyvmm_server import command, users
from tests.kata import fake_relay
from tests.kata.fake_agent import boot_fake

machines.boot_vm = boot_fake
fake_relay.install()
guest.PATH = guest.program()
isolations.choose = lambda wanted: "vm"  # these machines need no KVM
place = sys.argv[1]
image_store.SYSTEM_STORE = f"{place}/images"
users.HOME = f"{place}/home"
users.PASSWD = f"{place}/passwd"
where = {"config": f"{place}/kata.toml", "root": f"{place}/state"}
# There is a python3 with ipykernel, whose sockets need short paths
env = {"PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin", "TMPDIR": os.environ["PYVMM_FAKE_KERNELS"]}
if not os.path.exists(f"{place}/base"):
    Template.build(f"{place}/base", f"{place}/rootfs", config=where["config"], root=where["root"], env=env)
options = ["--config", where["config"], "--root", where["root"], "--network", "none", "--state", f"{place}/server"]
sys.exit(command.main([*options, "--template", f"base={place}/base", *sys.argv[2:]]))
