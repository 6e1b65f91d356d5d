"""The page in a headless Chromium, as its users see it: with a mouse, by the keyboard alone, in light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2b import Sandbox

from tests.kata.oci_runtime import eventually
from tests.server.browser import PROGRAM, Visitor, browser, violations
from tests.server.conftest import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    Visit = Callable[..., Visitor]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PROGRAM is None, reason="Debian's chromium is not installed"),
]
HTML = "<img src=x onerror=document.title='bad'>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def visit(server: Server, chromium: Browser) -> Iterator[Visit]:
    """Opens the page; at the end, nothing may have been complained of, and nothing asked elsewhere."""
    visitors: list[Visitor] = []

    def open_page(*, key: str = "e2b_0", dark: bool = False) -> Visitor:
        visitors.append(Visitor(chromium, server.url, dark=dark))
        if key:
            visitors[-1].sign_in(key)
            visitors[-1].page.get_by_role("heading", name="Sandboxes", exact=True).wait_for()
        return visitors[-1]

    yield open_page
    for each in visitors:
        each.close()


@pytest.fixture
def box(server: Server, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox with the name of the test."""
    made = Sandbox.create(timeout=600, metadata={"name": request.node.name}, **server.client())
    yield made
    for each in Sandbox.list(**server.client()).next_items():
        Sandbox.kill(each.sandbox_id, **server.client())


def test_a_new_sandbox_and_its_fork_appear_without_a_reload(server: Server, visit: Visit, box: Sandbox) -> None:
    visitor = visit()
    visitor.page.evaluate("window.mark = 1")
    later = Sandbox.create(metadata={"name": "made later"}, **server.client())
    row = visitor.node("made later")
    row.wait_for()
    assert row.get_attribute("aria-level") == "2"
    (fork,) = later.fork(count=1)
    assert isinstance(fork, Sandbox)
    child = visitor.node(fork.sandbox_id[:8])
    child.wait_for()
    assert child.get_attribute("aria-level") == "3"
    assert visitor.node(later.sandbox_id[:8]).get_attribute("aria-expanded") == "true"
    keys = visitor.page.get_by_role("treeitem").evaluate_all("rows => rows.map((each) => each.dataset.key)")
    assert keys.index(fork.sandbox_id) == keys.index(later.sandbox_id) + 1
    news = f"Sandbox made later ({fork.sandbox_id[:8]}) has started, a fork of made later ({later.sandbox_id[:8]})"
    assert visitor.page.locator("#news").inner_text() == news
    later.kill()
    ended = visitor.node("ended")
    ended.wait_for()  # the fork is still below the place of its parent
    assert child.get_attribute("aria-level") == "3"
    fork.kill()
    child.wait_for(state="detached")
    assert visitor.page.evaluate("window.mark") == 1


def test_a_terminal(visit: Visit, box: Sandbox) -> None:
    visitor = visit()
    visitor.node(box.sandbox_id[:8]).click()
    visitor.page.get_by_role("tab", name="Terminal").click()
    visitor.page.get_by_text("Connected. Ctrl").wait_for()
    visitor.page.keyboard.type("printf '\\033[38;2;250;9;8mmade %s\\n' $((6*7)); tput cols\n")
    visitor.until("document.querySelector('.xterm-rows').textContent.includes('made 42')")
    colour = "[...document.querySelectorAll('.xterm-rows span')].find((each) => each.textContent.includes('made 42'))"
    red, green, blue = map(int, re.findall("[0-9]+", visitor.page.evaluate(f"getComputedStyle({colour}).color"))[:3])
    assert red > 4 * max(green, blue)  # as it came, or darker for the contrast
    rows = "document.querySelector('.xterm-rows').innerText"
    visitor.until(f"/^[0-9]+\\s*$/m.test({rows})")
    before = visitor.page.evaluate(rows)
    visitor.page.set_viewport_size({"width": 900, "height": 700})
    visitor.page.keyboard.type("clear; until [ $(tput cols) -lt 70 ]; do sleep 0.1; done; echo nar''row\n")
    visitor.until(f"{rows}.includes('narrow')")
    assert "narrow" not in before
    visitor.page.keyboard.type("exit\n")
    visitor.page.get_by_text("The shell has ended").first.wait_for()


def test_all_of_it_by_the_keyboard_alone(server: Server, visit: Visit) -> None:
    visitor = visit(key="")
    press = visitor.page.keyboard.press
    visitor.page.keyboard.type("e2b_1")
    press("Enter")
    visitor.page.get_by_text("This key has no sandboxes").wait_for()
    press("Tab")  # the body has the focus: the first is the link over the header
    for _ in range(12):
        if visitor.page.evaluate("document.activeElement.id") == "new":
            break
        press("Tab")
    press("Enter")
    visitor.page.get_by_role("dialog", name="New sandbox").wait_for()
    visitor.page.keyboard.type("base")
    press("Tab")
    visitor.page.keyboard.type("by keys")
    press("Enter")
    row = visitor.node("by keys")
    row.wait_for()
    visitor.until("document.querySelector('[role=treeitem][aria-selected=true]')")
    while visitor.page.evaluate("document.activeElement.getAttribute('role')") != "treeitem":
        press("Tab")
    assert visitor.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press("p")
    visitor.node("paused").wait_for()
    press("p")
    visitor.node("running").wait_for()
    press("f")
    visitor.until("document.querySelectorAll('[role=treeitem]').length === 3")
    press("ArrowDown")
    assert visitor.page.evaluate("document.activeElement.getAttribute('aria-level')") == "3"
    press("ArrowLeft")
    assert visitor.page.evaluate("document.activeElement.getAttribute('aria-level')") == "2"
    press("ArrowLeft")
    visitor.until("document.querySelectorAll('[role=treeitem]').length === 2")
    press("ArrowRight")
    visitor.until("document.querySelectorAll('[role=treeitem]').length === 3")
    press("s")
    visitor.page.get_by_role("dialog", name="Snapshot of by keys").wait_for()
    visitor.page.keyboard.type("saved-by-keys")
    press("Enter")
    visitor.node("saved-by-keys").wait_for()
    press("?")
    visitor.page.get_by_role("dialog", name="Shortcuts").wait_for()
    press("Escape")
    press("Delete")
    visitor.page.get_by_role("dialog", name="Kill by keys").wait_for()
    press("Enter")  # on what is safe
    visitor.page.get_by_role("dialog").wait_for(state="detached")
    assert len(Sandbox.list(**server.client("e2b_1")).next_items()) == 2
    press("End")
    press("ArrowUp")  # the snapshot is the last
    for left in (2, 1):  # the template and its sandbox, then the snapshot alone
        press("Delete")
        visitor.page.get_by_role("dialog", name="Kill by keys").wait_for()
        press("Tab")
        press("Enter")
        visitor.until(f"document.querySelectorAll('[role=treeitem]').length === {left} + {left == 2:d}")
        visitor.until("document.activeElement.matches('[role=treeitem]')")
    eventually(lambda: Sandbox.list(**server.client("e2b_1")).next_items() == [], "one is left")
    assert visitor.page.evaluate("document.activeElement.dataset.key").startswith("snapshot:")


def test_tabs_by_the_keyboard(visit: Visit, box: Sandbox) -> None:
    visitor = visit()
    visitor.node(box.sandbox_id[:8]).click()
    visitor.page.get_by_role("tab", name="Start").focus()
    visitor.page.get_by_text("The start took").first.wait_for()
    names = ["Terminal", "Files", "Processes", "Console", "Differences", "Start"]
    for name in names:
        visitor.page.keyboard.press("ArrowRight")
        assert visitor.page.evaluate("document.activeElement.textContent") == name
        assert visitor.page.get_by_role("tabpanel", name=name).is_visible()
    visitor.page.keyboard.press("ArrowRight")
    visitor.page.keyboard.press("Enter")  # into the terminal, and out again
    visitor.until("document.activeElement.matches('textarea')")
    visitor.page.get_by_text("Connected. Ctrl").wait_for()
    visitor.page.keyboard.press("Control+Shift+Escape")
    assert visitor.page.evaluate("document.activeElement.textContent") == "Terminal"


def test_a_wrong_key_gets_a_sentence(server: Server, chromium: Browser, own_server: Server, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("e2b_0\n")
    own_server.stop()
    own_server.start("--keys", str(tmp_path / "keys"))
    visitor = Visitor(chromium, own_server.url)
    for key, words in (
        ("e2b_wrong", "Not signed in: the API key is wrong or missing."),
        ("schlüssel", "Not signed in: an API key has letters, digits and signs of ASCII only."),
    ):
        visitor.sign_in(key)
        visitor.until("text => document.querySelector('#error').textContent === text", words)
        assert visitor.page.evaluate("sessionStorage.length") == 0
    visitor.sign_in("e2b_0")
    visitor.page.get_by_text("This key has no sandboxes").wait_for()
    assert visitor.page.locator("#error").inner_text() == ""
    visitor.page.get_by_role("button", name="Sign out").click()
    visitor.page.get_by_label("API key").wait_for()
    assert visitor.page.evaluate("sessionStorage.length") == 0
    visitor.close()
    own_server.start("--keys", str(tmp_path / "keys")) if own_server.process is None else None
    own_server.stop()
    own_server.options = ()
    own_server.start()


def test_a_key_sees_its_own_sandboxes_only(visit: Visit, box: Sandbox) -> None:
    visit().node(box.sandbox_id[:8]).wait_for()
    other = visit(key="e2b_1")
    other.page.get_by_text("This key has no sandboxes").wait_for()
    assert other.page.get_by_role("treeitem").count() == 0


def test_html_is_text_wherever_it_comes_from(server: Server, visit: Visit, tmp_path: Path) -> None:
    box = Sandbox.create(metadata={"name": HTML, HTML: HTML}, **server.client())
    name = HTML.replace("/", "")
    (tmp_path / name).write_text(HTML)
    visitor = visit()
    visitor.node(HTML).click()
    visitor.page.get_by_role("heading", name=HTML).wait_for()
    visitor.page.get_by_role("tab", name="Files").click()
    visitor.page.get_by_label("Folder").fill(str(tmp_path))
    visitor.page.keyboard.press("Enter")
    visitor.page.get_by_role("button", name=name, exact=True).click()
    content = visitor.page.get_by_role("region", name=f"Content of {name}")
    content.wait_for()
    assert content.inner_text() == HTML
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name="Download").click()
    assert Path(download.value.path()).read_text() == HTML
    box.commands.run(f"exec sleep 98763 # {HTML}", background=True)
    visitor.page.get_by_role("tab", name="Processes").click()
    visitor.page.get_by_role("region", name="Processes").wait_for()
    assert visitor.page.locator("img").count() == 0
    assert visitor.page.title() == "pyvmm sandboxes"
    box.kill()
    visitor.page.get_by_text("has ended").first.wait_for()


def test_errors_are_shown(server: Server, visit: Visit, box: Sandbox) -> None:
    visitor = visit()
    visitor.page.get_by_role("button", name="New sandbox").click()
    visitor.page.get_by_label("Template, snapshot or image").fill("no-such-thing")
    visitor.page.keyboard.press("Enter")
    words = "Cannot start a sandbox: template 'no-such-thing' does not exist"
    visitor.until("text => document.querySelector('#error').textContent === text", words)
    visitor.node(box.sandbox_id[:8]).click()
    box.pause()
    visitor.node("paused").wait_for()
    visitor.page.get_by_role("tab", name="Processes").click()
    visitor.page.get_by_text("It is paused: resume it to see this.").wait_for()
    visitor.page.get_by_role("button", name="Resume").click()
    visitor.page.get_by_role("region", name="Processes").wait_for()
    visitor.page.get_by_role("tab", name="Differences").click()
    visitor.page.get_by_text("It has no siblings").wait_for()


def test_it_follows_the_server_over_a_restart(own_server: Server, chromium: Browser) -> None:
    visitor = Visitor(chromium, own_server.url)
    visitor.sign_in()
    box = Sandbox.create(metadata={"name": "survivor"}, **own_server.client())
    visitor.node("survivor").wait_for()
    own_server.stop()
    visitor.page.get_by_text("Connection lost").wait_for()
    own_server.start()
    visitor.page.get_by_text("Connected", exact=True).wait_for()
    box.kill()
    visitor.node("survivor").wait_for(state="detached")
    visitor.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(server: Server, visit: Visit, box: Sandbox, dark: bool) -> None:
    visitor = visit(key="", dark=dark)
    assert violations(visitor) == []
    visitor.sign_in()
    box.fork(count=1)
    visitor.until("document.querySelectorAll('[role=treeitem]').length === 3")
    visitor.node(box.sandbox_id[:8]).click()
    waits = {
        "Start": "The start took",
        "Terminal": "Connected. Ctrl",
        "Files": "entries",
        "Processes": "Command",
        "Console": "has printed nothing",
        "Differences": "Compare",
    }
    for name, words in waits.items():
        visitor.page.get_by_role("tab", name=name).click()
        visitor.page.get_by_role("tabpanel").get_by_text(words).first.wait_for()
        assert (name, violations(visitor)) == (name, [])
    visitor.page.get_by_role("button", name="Kill").click()
    visitor.page.get_by_role("dialog").wait_for()
    assert violations(visitor) == []
    visitor.page.keyboard.press("Escape")
    box.pause()
    visitor.node("paused").wait_for()
    assert violations(visitor) == []
