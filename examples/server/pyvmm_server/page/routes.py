"""The paths of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from pyvmm_server.page import console, differences, files, processes, start
from pyvmm_server.page.events import Events

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from pyvmm_server.calls import Call
    from pyvmm_server.sandboxes import Sandboxes

    Answer = Callable[[Call], Awaitable[Response]]


def routes(
    sandboxes: Sandboxes, authorized: Callable[[Answer], Callable[[Request], Awaitable[Response]]]
) -> list[Route]:
    """Its files, which need no key, and its own calls.

    :param authorized: makes a call one that needs a key
    """
    calls: dict[str, Answer] = {
        "/pyvmm/events": Events(sandboxes).answer,
        "/pyvmm/sandboxes/{sandbox}/console": console.answer,
        "/pyvmm/sandboxes/{sandbox}/differences": differences.answer,
        "/pyvmm/sandboxes/{sandbox}/processes": processes.answer,
        "/pyvmm/sandboxes/{sandbox}/start": start.answer,
    }
    return [
        Route("/", files.index),
        Route("/page/{name:path}", files.file),
        *(Route(path, authorized(call)) for path, call in calls.items()),
    ]
