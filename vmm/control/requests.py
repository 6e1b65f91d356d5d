"""The requests of a control socket: those that are calls of a machine, and those that only the socket has.

Each has a name and arguments with types; a request with others is refused before anything is done.
"""

from __future__ import annotations

import os

from vmm.errors import ConfigError
from vmm.machine.interface import CALLS, KINDS, Argument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from vmm.control.plugged import Disks, Shares
    from vmm.machine.interface import Call, MachineInterface

    class Server(Protocol):
        """What serves the socket."""

        machine: MachineInterface
        disks: Disks
        shares: Shares

        def fork(self, n: int) -> list[dict[str, str]]: ...

    Tell = Callable[[dict[str, Any]], None]
    Work = Callable[[Server, dict[str, Any], Tell], dict[str, Any] | None]

_SECONDS_MAX = 86400


class Request:
    """A request.

    :ivar name: its ``command``
    :ivar arguments: what may be given with it
    :ivar text: what it does and answers, as Markdown
    :ivar work: does it; returns the answer
    """

    __slots__ = ("arguments", "name", "text", "work")

    def __init__(self, name: str, arguments: list[Argument], text: str, work: Work) -> None:
        self.name = name
        self.arguments = arguments
        self.text = text
        self.work = work

    def take(self, values: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a request by name, checked; those that are left out have their defaults.

        :raises ConfigError: one is missing, has another type, or is none of this request
        """
        taken: dict[str, Any] = {}
        left = dict(values)
        for argument in self.arguments:
            name = argument.name
            value = left.pop(name, None)
            if value is None:
                value = argument.default
            elif type(value) is not KINDS[argument.kind]:
                raise ConfigError(f"{self.name}: {name} is no {argument.kind}", code="control-argument")
            if value is None and not argument.optional:
                raise ConfigError(f"{self.name}: {name} is missing", code="control-argument")
            if isinstance(value, str) and not _is_word(value):
                raise ConfigError(
                    f"{self.name}: {name} has a character that no path can have: {value!r:.60}",
                    code="control-argument",
                    hint="leave out NUL and halves of surrogate pairs",
                )
            taken[name] = value
        if left:
            raise ConfigError(f"{self.name}: no argument {next(iter(left))!r:.60}", code="control-argument")
        return taken


def _is_word(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _of_call(row: Call) -> Request:
    """The request of a call of the machine."""

    def work(server: Server, arguments: dict[str, Any], tell: Tell) -> dict[str, Any] | None:
        if row.reports_progress:
            arguments["progress"] = lambda done, size: tell({"progress": done, "of": size})
        result = getattr(server.machine, row.name)(**arguments)
        return None if row.result == "None" else {"result": result}

    return Request(row.request, row.arguments, row.text, work)


def _status(server: Server, arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    machine = server.machine
    config = machine.config
    return {
        "state": machine.state,
        "cpus": machine.cpus,
        "max_cpus": config.all_cpus(),
        "memory": config.memory.size,
        "transport": config.transport,
        "kernel": config.boot.kernel,
        "devices": [device.name for device in machine.devices],
    }


def _add_disk(server: Server, arguments: dict[str, Any], tell: Tell) -> None:
    from vmm.virtio.blk import DiskConfig

    server.disks.add(DiskConfig.parse(arguments["disk"], "add-disk"))


def _add_share(server: Server, arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    from vmm.virtio.fs import ShareConfig

    return {"tag": server.shares.add(ShareConfig.parse(arguments["share"], "add-share"))}


def _seconds(command: str, seconds: int) -> int:
    if not 0 <= seconds <= _SECONDS_MAX:
        raise ConfigError(f"{command}: seconds is not 0 to {_SECONDS_MAX}", code="control-argument")
    return seconds


def _remove_disk(server: Server, arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    seconds = _seconds("remove-disk", arguments["seconds"])
    return {"removed": server.disks.remove(arguments["path"], seconds, force=arguments["force"])}


def _remove_share(server: Server, arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    seconds = _seconds("remove-share", arguments["seconds"])
    return {"removed": server.shares.remove(arguments["path"], seconds, force=arguments["force"])}


def _resize_disk(server: Server, arguments: dict[str, Any], tell: Tell) -> None:
    server.disks.resize(arguments["path"])


def _fork(server: Server, arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    return {"children": server.fork(arguments["n"])}


_PATH = Argument("path", "str")
_LEAVING = [_PATH, Argument("seconds", "int", 30, unit="s"), Argument("force", "bool", False)]
_OF_SOCKET = (
    Request(
        "status",
        [],
        "`state`, `cpus` (that run now), `max_cpus`, `memory` (bytes), `transport`, `kernel`, `devices`",
        _status,
    ),
    Request(
        "add-disk",
        [Argument("disk", "str")],
        "plug in a disk: `FILE[,OPTION...]` as behind `--disk`, without `cow=overlay`; FILE is an absolute path below "
        "a directory of `--disks-from`",
        _add_disk,
    ),
    Request(
        "remove-disk",
        _LEAVING,
        "unplug a disk that was added; `removed`: whether the guest has released it by then, or `force` took it away",
        _remove_disk,
    ),
    Request(
        "resize-disk",
        [_PATH],
        "read the size of a disk's file again and tell the guest; also of a disk of the machine's start",
        _resize_disk,
    ),
    Request(
        "add-share",
        [Argument("share", "str")],
        "share a directory: `DIR[,OPTION...]` as behind `--share`, without `dax`; DIR is an absolute path below a "
        "directory of `--shares-from`; `tag`: what the guest mounts",
        _add_share,
    ),
    Request("remove-share", _LEAVING, "as `remove-disk`", _remove_share),
    Request(
        "fork",
        [Argument("n", "int", 1)],
        "make `n` running copies; `children`: the paths of each one's `control` socket and of its `vsock`",
        _fork,
    ),
)

_OF_CALLS = [_of_call(row) for row in CALLS.values() if row.request]
REQUESTS: dict[str, Request] = {each.name: each for each in (_OF_SOCKET[0], *_OF_CALLS, *_OF_SOCKET[1:])}
"""All requests by name; docs/reference/control.md has the same table."""
