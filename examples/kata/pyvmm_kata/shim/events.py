"""Events for containerd, sent in order over its ttrpc socket, also after a restart of containerd."""

from __future__ import annotations

import collections
import socket
import threading
import time
from typing import TYPE_CHECKING

from pyvmm_kata.protocol import protobuf, ttrpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata.protocol.protobuf import Message

SERVICE = "containerd.services.events.ttrpc.v1.Events"
CALL_S = 10.0
RETRY_S = 1.0
MAX_WAITING = 4096  # events kept for a containerd that is away; older ones are dropped

TOPICS = {
    "TaskCreate": "/tasks/create",
    "TaskStart": "/tasks/start",
    "TaskExit": "/tasks/exit",
    "TaskDelete": "/tasks/delete",
    "TaskExecAdded": "/tasks/exec-added",
    "TaskExecStarted": "/tasks/exec-started",
    "TaskOOM": "/tasks/oom",
    "TaskPaused": "/tasks/paused",
    "TaskResumed": "/tasks/resumed",
    "TaskCheckpointed": "/tasks/checkpointed",
}


def event(name: str, **fields: object) -> Message:
    """A message of the package containerd.events."""
    return protobuf.message(f"containerd.events.{name}")(**fields)


class Publisher:
    """Sends events to containerd, one after the other, from a thread of its own.

    :param address: path of containerd's ttrpc socket; empty: events are dropped
    :param namespace: containerd's namespace of the tasks
    :param log: called with what could not be sent
    """

    def __init__(self, address: str, namespace: str, log: Callable[[str], None]) -> None:
        self._address = address.removeprefix("unix://")
        self._namespace = namespace
        self._log = log
        self._changed = threading.Condition()
        self._waiting: collections.deque[Message] = collections.deque(maxlen=MAX_WAITING)
        self._closing = False
        self._client: ttrpc.Client | None = None
        self._thread = threading.Thread(target=self._send_all, name="events", daemon=True)
        if self._address:
            self._thread.start()

    def publish(self, content: Message) -> None:
        """Queue an event."""
        if not self._address:
            return
        now = time.time_ns()
        stamp = protobuf.message("google.protobuf.Timestamp")(seconds=now // 10**9, nanos=now % 10**9)
        envelope = protobuf.message("containerd.types.Envelope")(
            timestamp=stamp,
            namespace=self._namespace,
            topic=TOPICS[content.DESCRIPTOR.name],
            event=protobuf.pack(content),
        )
        with self._changed:
            self._waiting.append(envelope)
            self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """End, after queued events were sent; those that are not sent within `timeout` seconds are lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._address:
            self._thread.join(timeout)
        if self._client is not None:
            self._client.close()

    def _send_all(self) -> None:
        complained = False
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                envelope = self._waiting[0]
            try:
                self._forward(envelope)
                complained = False
            except (OSError, ttrpc.ConnectionLost, ttrpc.CallTimeout) as error:
                if not complained:
                    self._log(f"events wait for containerd: {error}")
                complained = True
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY_S)
                    if self._closing:
                        return
                continue
            except ttrpc.RpcError as error:
                self._log(f"containerd refuses the event {envelope.topic}: {error}")
            with self._changed:
                if self._waiting and self._waiting[0] is envelope:
                    self._waiting.popleft()

    def _forward(self, envelope: Message) -> None:
        if self._client is None or not self._client.is_open:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.settimeout(CALL_S)
                sock.connect(self._address)
            except OSError:
                sock.close()
                raise
            self._client = ttrpc.Client(sock, "containerd")
        request = protobuf.message("containerd.services.events.ttrpc.v1.ForwardRequest")(envelope=envelope)
        self._client.call(SERVICE, "Forward", request, CALL_S)
