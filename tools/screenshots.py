"""`python -m tools.screenshots [FOLDER]`: the pictures of the server's page for the documents, by Debian's Chromium.

The server is a real one with the machines of the tests, which run their programs on this host: the times in a picture
are theirs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.where import ROOT

if TYPE_CHECKING:
    from tests.server.browser import Visitor
    from tests.server.conftest import Server

FOLDER = Path(ROOT, "docs", "pictures")
SIZE = {"width": 1040, "height": 680}
MOST = 150_000
"""Bytes of a picture."""


def make_family(server: Server) -> str:
    """A sandbox, its forks, one of them paused, and a snapshot; the id of a fork."""
    from e2b import Sandbox

    options: dict[str, Any] = {"timeout": 3600, **server.client()}
    parent = Sandbox.create(metadata={"name": "crawler"}, **options)
    first, second = parent.fork(count=2, timeout=3600)
    assert isinstance(first, Sandbox) and isinstance(second, Sandbox)
    second.pause()
    parent.create_snapshot(name="crawler-ready")
    Sandbox.create(metadata={"name": "report", "team": "search"}, **options)
    return first.sandbox_id


def picture(visitor: Visitor, path: Path) -> None:
    """Save what is seen, when the memory of all is known."""
    visitor.until(
        "[...document.querySelectorAll('.running .facts')].every((each) => each.textContent.includes(' of '))"
    )
    visitor.page.screenshot(path=path)
    size = path.stat().st_size
    print(f"{path}  {size / 1e3:.0f} kB")
    if size > MOST:
        sys.exit(f"{path} has more than {MOST} bytes")


def main(arguments: Sequence[str]) -> int:
    """Make all pictures."""
    from tests.server.browser import PROGRAM, Visitor, browser
    from tests.server.conftest import running

    folder = Path(arguments[0]) if arguments else FOLDER
    if PROGRAM is None:
        sys.exit("chromium is not installed: python3 tools/deps.py check long")
    with tempfile.TemporaryDirectory() as place, running(Path(place)) as server, browser() as chromium:
        fork = make_family(server)
        for name, tab, dark in (("page-start", "Start", False), ("page-terminal", "Terminal", True)):
            visitor = Visitor(chromium, server.url, dark=dark)
            visitor.page.set_viewport_size(SIZE)  # type: ignore[arg-type]
            visitor.sign_in()
            visitor.node(fork[:8]).click()
            visitor.page.get_by_role("tab", name=tab).click()
            if tab == "Terminal":
                visitor.page.get_by_text("Connected. Ctrl").wait_for()
                visitor.page.keyboard.type("PS1='$ '; clear; printf 'forked: %s\\n' $((6*7))\n")
                visitor.until("document.querySelector('.xterm-rows').innerText.startsWith('forked: 42')")
            else:
                visitor.page.get_by_text("The start took").first.wait_for()
            picture(visitor, folder / f"{name}.png")
            visitor.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
