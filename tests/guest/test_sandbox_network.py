"""Network rules of a sandbox whose guest is a machine with Linux: its passt is where the rules hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.kata_tools import PATIENCE, Oci

SANDBOX_TESTS = Path(__file__).parents[1] / "sandbox"
CODE = f"""
import sys
sys.path.insert(0, {str(SANDBOX_TESTS)!r})
from outside import *
from pyvmm_sandbox import *
rootfs, settings, place = sys.argv[1:]
outside = Outside(place)
rules = Network(allow=["good.test:80", f"{{BY_ADDRESS}}:7000", "to-denied.test", "to-loopback.test"], deny=[DENIED])
def reached(box, words):
    return box.run(words, timeout=120).ok
secrets = {{"KEY": Secret("s3cret-value-of-tests", hosts=["http://good.test"])}}
with Sandbox(rootfs, network=rules, secrets=secrets, isolation="vm", memory="96M", timeout=None, config=settings,
             root=place + "/state") as box:
    get = "wget -q -T 20 -O - http://"
    assert reached(box, get + "good.test/quiet") and reached(box, get + f"{{BY_ADDRESS}}:7000/quiet")
    assert reached(box, 'wget -q -T 20 -O - --header "X-Key: $KEY" http://good.test/secret')
    requests = {{each["path"]: each for each in outside.arrived()["requests"]}}
    assert requests["/secret"]["headers"]["X-Key"] == "s3cret-value-of-tests"
    for target in ("evil.test/", "good.test:81/", "to-denied.test/", "to-loopback.test/", f"{{SERVER}}/", f"{{OTHER}}/",
                   f"{{BY_ADDRESS}}:7001/", f"{{DENIED}}/", f"{{HOST}}/", "169.254.169.254/", f"[{{SERVER_6}}]/"):
        assert not reached(box, get + target), target
    box.run(f"ping -c 1 -W 1 {{OTHER}}; echo hi | nc -u -w 1 {{OTHER}} 7000; nslookup stolen.tunnel.test {{RESOLVER}}")
    found = outside.arrived()
    assert found["packets"] == [] and "stolen.tunnel.test" not in found["names"], found
    os.kill(box.network.pid(), 9)
    assert not reached(box, get + "good.test/quiet") and outside.arrived()["packets"] == []
"""


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Oci]:
    made = Oci(tmp_path)
    yield made
    made.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.skipif(
    not all(shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin") for name in ("passt", "nft", "ip", "openssl")),
    reason="passt, nft, ip or openssl is not installed",
)
def test_a_machine_reaches_what_is_allowed_and_nothing_else(oci: Oci, tmp_path: Path) -> None:
    """All packets that leave the host are compared."""
    place = tmp_path / "outside"
    place.mkdir()
    done = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, "-c", CODE, str(oci.rootfs), str(oci.settings), str(place)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
