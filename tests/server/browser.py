"""A headless Chromium with the page: what it asks for, what it complains of, and how a user finds things in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyvmm_server.page import vendor
from tests.kata.oci_runtime import PATIENCE, eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request

PROGRAM = shutil.which("chromium")
QUIET = ("status of 4", "ERR_CONNECTION_REFUSED")
"""What the browser itself writes to the console of answers that a test has provoked."""


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """The program of the distribution; playwright's own one is not needed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Tests run as root, where its sandbox cannot be had; it sees nothing but the page
        options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        found = playwright.chromium.launch(executable_path=PROGRAM, args=options)
        try:
            yield found
        finally:
            found.close()


class Visitor:
    """A user with a browser window.

    :ivar complaints: of the console, and exceptions
    :ivar elsewhere: requests that have left the origin
    """

    def __init__(self, browser: Browser, url: str, *, dark: bool = False) -> None:
        self.url = url
        self.context = browser.new_context(
            color_scheme="dark" if dark else "light", viewport={"width": 1280, "height": 800}, accept_downloads=True
        )
        self.context.set_default_timeout(PATIENCE * 1000)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._check)
        self.page.on("response", lambda each: self.complaints.append(each.url) if each.status >= 500 else None)
        self.page.goto(url + "/")

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(each in message.text for each in QUIET):
            self.complaints.append(message.text)

    def _check(self, request: Request) -> None:
        if not request.url.startswith((self.url + "/", f"blob:{self.url}/")):
            self.elsewhere.append(request.url)

    def sign_in(self, key: str = "e2b_0") -> None:
        self.page.get_by_label("API key").fill(key)
        self.page.keyboard.press("Enter")

    def node(self, text: str) -> Locator:
        """A row of the tree, by part of what it reads."""
        return self.page.get_by_role("treeitem").filter(has_text=text)

    def until(self, expression: str, value: Any = None) -> None:
        """Wait until JavaScript finds something true.

        It is asked again and again from here: the page's policy forbids the text of a program to be run inside.
        """
        eventually(lambda: self.page.evaluate(expression, value), expression)

    def close(self) -> None:
        """Leave, and check that nothing was wrong."""
        self.context.close()
        assert not self.complaints, self.complaints
        assert not self.elsewhere, self.elsewhere


AXE = vendor.Package(
    "axe-core",
    "4.14.1",
    "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    {},
)


def violations(visitor: Visitor) -> list[str]:
    """What axe-core finds serious or critical in what is shown now."""
    if not visitor.page.evaluate("'axe' in window"):
        visitor.page.evaluate(vendor.content(AXE, "axe.min.js").decode())
    found = visitor.page.evaluate("axe.run()")
    assert found["passes"], "axe has checked nothing"
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
