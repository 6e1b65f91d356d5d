"""Clients that make, pause, resume, use and end sandboxes, and note what the server has promised them."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field

import httpx

from tests.kata.oci_runtime import PATIENCE
from tests.server.conftest import Server

_MOST = 4
"""Sandboxes of a client."""
EITHER = ("running", "paused")


@dataclass
class Box:
    """A sandbox that a client was promised.

    :ivar number: in its metadata and its environment
    :ivar states: it has one of these
    :ivar may_be_gone: its end was asked for, without an answer
    """

    number: str
    id: str
    token: str
    states: tuple[str, ...] = ("running",)
    may_be_gone: bool = False


@dataclass
class Client:
    """One thread with sandboxes of its own.

    :ivar boxes: by their number
    :ivar unknown: numbers of requests for a sandbox that had no answer
    :ivar wrong: answers that break a promise
    :ivar done: how many requests were answered as wanted
    """

    server: Server
    name: str
    rng: random.Random
    boxes: dict[str, Box] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    done: int = 0
    _count: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            usable = [each for each in self.boxes.values() if not each.may_be_gone]
            if not usable or (len(self.boxes) < _MOST and self.rng.random() < 0.4):
                worked = self._create()
            else:
                box = self.rng.choice(usable)
                act = self.rng.choices([self._kill, self._pause, self._resume, self._use], [1, 2, 2, 3])[0]
                worked = act(box)
            if worked:
                self.done += 1
            else:
                self._stop.wait(0.05)  # the server may be starting: only a try shows

    def _ask(self, method: str, path: str, **body: object) -> httpx.Response | None:
        """The answer; None: there was none."""
        try:
            return self.server.http(method, path, json=body or None, timeout=PATIENCE)
        except httpx.TransportError:
            return None

    def _expect(self, answer: httpx.Response | None, what: str, *statuses: int) -> bool:
        """Whether the answer has one of these statuses.  503 with a message is a refusal, any other status a fault."""
        if answer is None or answer.status_code in statuses:
            return answer is not None
        words = f"{what}: {answer.status_code} {answer.text[:300]}"
        said = answer.headers.get("content-type", "") == "application/json" and answer.json().get("message")
        (self.refused if answer.status_code == 503 and said else self.wrong).append(words)
        return False

    def _create(self) -> bool:
        self._count += 1
        number = f"{self.name}{self._count}"
        wanted = {"templateID": "base", "timeout": 3600, "metadata": {"number": number}, "envVars": {"NUMBER": number}}
        answer = self._ask("POST", "/v2/sandboxes", **wanted)
        if answer is None:
            self.unknown.add(number)
        if not self._expect(answer, "create", 201):
            if answer is not None and "half done" in answer.text:
                self.unknown.add(number)
            return False
        assert answer is not None
        made = answer.json()
        self.boxes[number] = Box(number, made["sandboxID"], made["envdAccessToken"])
        return True

    def _kill(self, box: Box) -> bool:
        box.may_be_gone = True
        if not self._expect(self._ask("DELETE", f"/sandboxes/{box.id}"), f"kill {box}", 204):
            return False
        del self.boxes[box.number]
        return True

    def _pause(self, box: Box) -> bool:
        return self._move(box, "pause", "paused", {}, 204)

    def _resume(self, box: Box) -> bool:
        return self._move(box, "resume", "running", {"timeout": 3600}, 201)

    def _move(self, box: Box, call: str, state: str, body: dict[str, object], status: int) -> bool:
        before, box.states = box.states, EITHER
        answer = self._ask("POST", f"/sandboxes/{box.id}/{call}", **body)
        conflict = answer is not None and answer.status_code == 409 and state in before  # it is in this state already
        if not conflict and not self._expect(answer, f"{call} {box}", status):
            return False
        box.states = (state,)
        return True

    def _use(self, box: Box) -> bool:
        if box.states != ("running",):
            return False
        headers = {"E2b-Sandbox-Id": box.id, "X-Access-Token": box.token}
        try:
            answer = self.server.http(
                "POST", "/filesystem.Filesystem/Stat", json={"path": "/"}, headers=headers, timeout=PATIENCE
            )
        except httpx.TransportError:
            return False
        return self._expect(answer, f"use {box}", 200)
