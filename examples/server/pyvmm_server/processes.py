"""The service ``process.Process``: commands, with their input and output."""

from __future__ import annotations

import asyncio
import base64
import binascii
import signal
from typing import TYPE_CHECKING, Any

from pyvmm_server import bodies, connect, threads
from pyvmm_server.errors import ClientError
from pyvmm_server.running import Running

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from pyvmm_server.sandboxes import Live
    from pyvmm_server.session import Session

START = """\
cd -- "$1" 2>/dev/null || cd -- "$2" 2>/dev/null || { echo cwd; exit 1; }
echo $$
shift 2
if [ "$1" = /bin/bash ] && [ ! -e /bin/bash ]; then shift; set -- /bin/sh "$@"; fi
exec "$@"
"""
"""Reports the process number, which the command keeps; images without bash have sh."""
SIGNALS = {"SIGNAL_SIGKILL": signal.SIGKILL, "SIGNAL_SIGTERM": signal.SIGTERM, "SIGNAL_SIGINT": signal.SIGINT}


async def start(session: Session, request: Request, message: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """``Start``: the events of a new command.  It goes on without the client, up to the client's deadline."""
    config = bodies.take(message, "process", dict)
    size = _size(message) if message.get("pty") else None
    running = await _started(session, config, bodies.take(message, "tag", str, ""), size)
    live = session.live
    if size is None and not bodies.take(message, "stdin", bool, True):
        await running.close_input()
    timeout = connect.timeout_of(request)
    with running.subscribed() as subscriber:
        live.processes[running.pid] = running
        words = [str(config.get("cmd", "")), *map(str, config.get("args", []))]
        live.events.note("process started", pid=running.pid, command=" ".join(words))
        session.background(_run(live, running, timeout))
        yield {"event": {"start": {"pid": running.pid}}}
        async for event in subscriber.events(connect.Waits(request)):
            yield event


async def _started(session: Session, config: dict[str, Any], tag: str, size: dict[str, int] | None) -> Running:
    words = [bodies.take(config, "cmd", str), *bodies.take(config, "args", list, [])]
    if not all(isinstance(word, str) for word in words):
        raise ClientError(400, "args are not strings")
    user = await session.user()
    wanted = bodies.take(config, "cwd", str, "")
    cwd = user.path(wanted)
    record = session.record
    other = cwd if wanted or record.workdir else "/"  # as login(1), where a user's home is missing
    env = {
        **user.environment,
        "E2B_SANDBOX_ID": record.id,
        "E2B_TEMPLATE_ID": record.template,
        **record.envs,
        **bodies.texts(config, "envs"),
    }
    command = await threads.call(
        session.live.box.popen,
        ["/bin/sh", "-c", START, "sh", cwd, other, *words],
        env=env,
        user=user.ids,
        tty=size is not None,
        **(size or {}),
    )
    running = Running(command, config, tag, cwd=cwd, terminal=size is not None)
    try:
        await running.begin()
    except BaseException:
        await threads.call(command.close)
        raise
    return running


async def _run(live: Live, running: Running, timeout: float | None) -> None:
    alarm = asyncio.get_running_loop().call_later(timeout, running.kill) if timeout else None
    try:
        await running.run()
    finally:
        if alarm is not None:
            alarm.cancel()
        live.events.note("process ended", pid=running.pid, status=running.status)
        if live.processes.get(running.pid) is running:
            del live.processes[running.pid]


async def follow(session: Session, request: Request, message: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """``Connect``: the events of a command that runs, from now on."""
    running = _selected(session, message)
    with running.subscribed() as subscriber:
        yield {"event": {"start": {"pid": running.pid}}}
        async for event in subscriber.events(connect.Waits(request)):
            yield event


async def stream_input(session: Session, request: Request) -> dict[str, Any]:
    """``StreamInput``: the first message names the command, the others have data."""
    running: Running | None = None
    async for message in connect.messages(request, session.settings.most_upload):
        if start_event := message.get("start"):
            running = _selected(session, start_event if isinstance(start_event, dict) else {})
        elif data := message.get("data"):
            if running is None:
                raise ClientError(400, "the first message does not name a process")
            await running.write(_input(data if isinstance(data, dict) else {}))
    return {}


async def list_all(session: Session, message: dict[str, Any]) -> dict[str, Any]:
    """``List``: the commands that this server has started."""
    found = []
    for running in session.live.processes.values():
        names = {name: running.config[name] for name in ("cmd", "args", "envs", "cwd") if running.config.get(name)}
        found.append({"config": names, "pid": running.pid, **({"tag": running.tag} if running.tag else {})})
    return {"processes": found}


async def send_input(session: Session, message: dict[str, Any]) -> dict[str, Any]:
    """``SendInput``."""
    await _selected(session, message).write(_input(message))
    return {}


async def close_stdin(session: Session, message: dict[str, Any]) -> dict[str, Any]:
    """``CloseStdin``."""
    await _selected(session, message).close_input()
    return {}


async def send_signal(session: Session, message: dict[str, Any]) -> dict[str, Any]:
    """``SendSignal``."""
    running = _selected(session, message)
    name = message.get("signal")
    if not isinstance(name, str) or name not in SIGNALS:
        raise ClientError(400, f"signal {str(name)[:80]!r} is not one of {', '.join(SIGNALS)}")
    if SIGNALS[name] == signal.SIGKILL:
        await threads.call(running.kill)
    else:
        running.send_signal(SIGNALS[name])
    return {}


async def update(session: Session, message: dict[str, Any]) -> dict[str, Any]:
    """``Update``: the size of a terminal."""
    size = _size(message)
    _selected(session, message).resize(size["rows"], size["cols"])
    return {}


def _size(message: dict[str, Any]) -> dict[str, int]:
    size = bodies.take(bodies.take(message, "pty", dict), "size", dict, {})
    return {name: bodies.take(size, name, int, default) for name, default in (("rows", 24), ("cols", 80))}


def _selected(session: Session, message: dict[str, Any]) -> Running:
    selector = bodies.take(message, "process", dict)
    pid, tag = selector.get("pid"), selector.get("tag")
    for running in session.live.processes.values():
        if running.pid == pid or (tag and running.tag == tag):
            return running
    raise ClientError(404, f"no process {str(pid or tag)[:80]} runs")


def _input(message: dict[str, Any]) -> bytes:
    data = bodies.take(message, "input", dict)
    text = data.get("stdin", data.get("pty", ""))
    try:
        return base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ClientError(400, f"the input is not Base64: {error}") from error


STREAMS = {"Start": start, "Connect": follow}
CALLS = {
    "List": list_all,
    "SendInput": send_input,
    "CloseStdin": close_stdin,
    "SendSignal": send_signal,
    "Update": update,
}
