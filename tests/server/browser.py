"""A headless Chromium with the page: what it asks for, what it complains of, and how a user finds things in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tests.kata.oci_runtime import PATIENCE

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
        """Wait until JavaScript finds something true."""
        self.page.wait_for_function(expression, arg=value)

    def close(self) -> None:
        """Leave, and check that nothing was wrong."""
        self.context.close()
        assert (self.complaints, self.elsewhere) == ([], [])
