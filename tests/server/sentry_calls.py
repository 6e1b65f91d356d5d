"""What E2B's client gets of a sandbox on the Sentry: ``sentry_calls.py ROOTFS PLACE``."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from typing import Any

from e2b import CommandExitException, RateLimitException, Sandbox, Template

from tests.server.sentry_server import serving


def main() -> None:
    """The client's side."""
    with serving("--network", "none") as (_, client):
        url = client["api_url"]
        with Sandbox.create(allow_internet_access=False, timeout=600, **client) as box:
            found: dict[str, Any] = {"root": box.commands.run("echo $HOME; pwd", user="root").stdout.split()}
            box.files.write("/tmp/www/index.html", "from inside")
            box.commands.run("python3 -m http.server -d /tmp/www 8000", background=True, timeout=0)
            found["http"] = until_it_listens(url, box.sandbox_id, 8000)
            found["closed"] = get(url, box.sandbox_id, 8001)
            copies = [*box.fork(), Sandbox.create(box.create_snapshot().snapshot_id, **client)]
            found["copies"] = [until_it_listens(url, each.sandbox_id, 8000) for each in copies]
            for each in copies:
                each.kill()
            box.pause()
            found["resumed"] = until_it_listens(url, box.connect().sandbox_id, 8000)
        lines: list[str] = []
        steps = Template().from_template("base").run_cmd("echo this step runs; echo built >/tmp/built")
        Template.build(steps, "built", on_build_logs=lambda each: lines.append(each.message), **client)
        with Sandbox.create("built", allow_internet_access=False, **client) as box:
            found["built"] = ["this step runs" in lines, box.files.read("/tmp/built")]
            try:
                while True:
                    last = box.commands.run("sleep 1000", background=True, timeout=0)
            except RateLimitException:
                found["full"] = True
            last.kill()
            with contextlib.suppress(CommandExitException):
                last.wait()
            found["room"] = box.commands.run("echo on").stdout
        print(json.dumps(found))


def get(url: str, sandbox_id: str, port: int) -> str:
    """What a server inside answers, or the status of the error."""
    headers = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(port)}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/index.html", headers=headers)) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.code)


def until_it_listens(url: str, sandbox_id: str, port: int) -> str:
    """The same; nothing but an answer shows that it listens."""
    while (found := get(url, sandbox_id, port)) == "502":
        pass
    return found


if __name__ == "__main__":
    main()
