"""Requests of schemathesis to a sandbox on the Sentry: ``sentry_schema.py ROOTFS PLACE WHAT SECONDS``.

They write, remove and run anything, so that no sandbox of this test has files of the host.  It prints what schemathesis
and the server have found.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from e2b import PtySize, Sandbox

from tests.server import daemon_schema
from tests.server.sentry_server import place, serving

name, seconds = sys.argv[3:]
STUBBORN = "trap '' TERM; cat >/dev/null; while :; do sleep 1000; done"
CONFIG = """\
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "501", "502", "507"]
"""
"""501: it is missing; 502: nothing listens in the sandbox; 507: it has no space."""


def target(box: Sandbox) -> tuple[dict[str, Any], dict[str, str]]:
    """The description of what is attacked, and the headers that lead to it."""
    to = {"E2b-Sandbox-Id": box.sandbox_id}
    if name == "page":
        return daemon_schema.page(box.sandbox_id), {"X-API-Key": "e2b_0"}
    if name == "interpreter":
        return daemon_schema.interpreter(), {**to, "E2b-Sandbox-Port": "49999"}
    pids = [
        box.commands.run(STUBBORN, background=True, stdin=True, timeout=0).pid,
        box.pty.create(PtySize(rows=24, cols=80), timeout=0).pid,
    ]
    return daemon_schema.daemon(pids), {**to, "X-Access-Token": box._envd_access_token or ""}


def attack(url: str, document: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    """The cases, and what has failed."""
    folder = Path(place, "schemathesis")
    folder.mkdir()
    (folder / "schemathesis.toml").write_text(CONFIG)
    (folder / "openapi.json").write_text(json.dumps(document))
    program = Path(sys.executable).with_name("schemathesis")
    options = ["--checks", "not_a_server_error", "--no-color", "--max-time", seconds, "--request-timeout", "60"]
    words = [word for each in headers.items() for word in ("-H", ": ".join(each))]
    command: list[str | Path] = [
        program,
        "run",
        "openapi.json",
        "--url",
        url,
        "--phases",
        "coverage,fuzzing",
        *options,
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    cases = re.search(r"([0-9]+) generated", done.stdout)
    failures = "" if done.returncode == 0 else (done.stdout[-12_000:] + done.stderr[-1_000:])
    return {"cases": int(cases[1]) if cases else 0, "failures": failures}


def main() -> None:
    """The client's side."""
    with serving() as (server, client):
        with Sandbox.create(timeout=7200, allow_internet_access=False, **client) as box:
            found = attack(client["api_url"], *target(box))
        with Sandbox.create(allow_internet_access=False, **client) as box:
            found["afterwards"] = box.commands.run("echo on").stdout
        lines = Path(place, "log").read_text().splitlines()
        found["log"] = [line[:2000] for line in lines if "Traceback" in line or '"error"' in line][:5]
        found["descriptors"] = len(os.listdir(f"/proc/{server}/fd"))
        print(json.dumps(found))


if __name__ == "__main__":
    main()
