"""Suites that others wrote for sandboxes, on ours, with machines that run their programs here."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.kata.oci_runtime import needs_namespaces
from tests.sandbox.fake_machines import ROOT, environment

SUITES = Path(__file__).with_name("suites")
TOGETHER = SUITES / "requirements.txt"
PACKAGES = {
    "openai_agents_suite": ["openai-agents==0.24.0"],
    "google_adk_suite": ["google-adk==2.13.0"],
    "harbor_suite": ["harbor==0.26.0"],
    "strands_suite": ["strands-agents==1.62.0"],
    "swe_rex_suite": ["swe-rex==1.4.0", "aiohttp"],  # which it imports and does not require
}
"""Of the suites whose packages do not fit with those of the others: each has an environment of its own."""
NEEDS_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="Harbor needs Python 3.12")
RUNNER = ["pytest>=8.3", "pytest-asyncio>=1.3"]


def python(suite: str) -> Path:
    """A Python that has a suite's framework, and after it what .venv has. Made once for each list of packages."""
    words = [*PACKAGES[suite], *RUNNER] if suite in PACKAGES else [f"--requirement={TOGETHER}"]
    content = " ".join(words).encode() if suite in PACKAGES else TOGETHER.read_bytes()
    name = hashlib.sha256(content + sys.version.encode()).hexdigest()[:12]
    place = ROOT / "build" / f"agent-suites-{name}"
    made = place / "bin" / "python"
    if not (place / "complete").exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([made, "-m", "pip", "install", "--quiet", *words], check=True)
        packages = subprocess.run(
            [made, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        )
        Path(packages.stdout.strip(), "pyvmm.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (place / "complete").touch()
    return made


@needs_namespaces
@pytest.mark.long
@pytest.mark.parametrize(
    ("suite", "passed", "failed"),
    [
        ("inspect_suite", 41, 3),
        ("deepagents_suite", 79, 7),
        ("mini_swe_agent_suite", 3, 0),
        ("openai_agents_suite", 7, 0),
        ("google_adk_suite", 3, 0),
        pytest.param("harbor_suite", 3, 0, marks=NEEDS_3_12),
        ("strands_suite", 4, 0),
        ("swe_rex_suite", 3, 0),
    ],
)
def test_suite(suite: str, passed: int, failed: int) -> None:
    """The frameworks are 300 MB of packages."""
    pytest_ = f"-m pytest -c {SUITES}/pytest.ini --confcutdir {SUITES} {SUITES}/{suite}.py".split()
    ran = subprocess.run(
        ["unshare", "--mount", "sh", SUITES / "apart.sh", python(suite), *pytest_],
        capture_output=True,
        text=True,
        env={**environment(Path("/tmp")), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = {word: int(count) for count, word in re.findall(r"(\d+) (passed|xfailed|skipped)", ran.stdout)}
    assert found == {"passed": passed, **({"xfailed": failed} if failed else {})}, ran.stdout
