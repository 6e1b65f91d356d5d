"""``pyvmm serve`` whose sandboxes have files of their own: ``rooted_server.py PLACE OPTION...``.

For programs that write to fixed places.  Start it in a mount namespace of its own: see tests/sandbox/suites/apart.sh.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pyvmm_kata.image_store import store as image_store
from pyvmm_sandbox import Template
from pyvmm_server import command
from tests.sandbox.rooted_machines import rooted_machines

place = sys.argv[1]
rooted_machines(own_programs=True)
image_store.SYSTEM_STORE = f"{place}/images"
where: dict[str, Any] = {"config": f"{place}/kata.toml", "root": f"{place}/state"}
(Path(place) / "rootfs" / "tmp").mkdir(mode=0o777)
Template.build(f"{place}/base", f"{place}/rootfs", **where)
options = ["--config", where["config"], "--root", where["root"], "--network", "none", "--state", f"{place}/server"]
sys.exit(command.main([*options, "--template", f"base={place}/base", *sys.argv[2:]]))
