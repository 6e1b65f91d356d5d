"""`pyvmm mcp` with machines that run their programs on this host."""

from __future__ import annotations

import sys

from pyvmm_mcp.command import main
from tests.kata import fake_relay
from tests.sandbox.fake_machines import fake_machines

if __name__ == "__main__":
    fake_machines()
    fake_relay.install()
    sys.exit(main(sys.argv[1:]))
