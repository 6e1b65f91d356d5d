"""``pyvmm-oci``, or ``pyvmm-poold``, with a machine that runs nothing: ``oci_program.py [poold] [ARGUMENT]...``"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.flags.no_site:
        import site

        site.main()
    root = Path(__file__).parents[2]
    sys.path[:0] = [str(root), str(root / "examples" / "kata")]
    if "pyvmm_warm" in sys._xoptions:
        from pyvmm_kata.entry import MONITOR
        from vmm import warm_start

        warm_start(MONITOR)
    from pyvmm_kata.oci.main import main
    from pyvmm_kata.pod import sandbox
    from tests.kata.fake_agent import boot_fake

    sandbox.boot_vm = boot_fake
    if sys.argv[1:2] == ["poold"]:
        from pyvmm_kata.oci import pool

        sys.exit(pool.main(sys.argv[2:]))
    sys.exit(main())
