"""The client's side of a control socket."""

from __future__ import annotations

import json
import os
import socket

from vmm.errors import ConfigError, HostError, from_answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def ask(
    path: str, command: str, progress: Callable[[int, int], None] | None = None, /, **arguments: Any
) -> dict[str, Any]:
    """Send a request to the control socket *path*, and wait for its answer.

    :param progress: called with the number of units that are done, and their total
    :param arguments: of the request; those that are None are left out
    :returns: the answer
    :raises ConfigError: nothing listens at *path*, or the machine cannot do this
    :raises HostError: the host refused something, or the machine ended before it answered
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        try:
            connection.connect(os.fspath(path))
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror or error}",
                code="control-connect",
                hint="name the control socket of a running machine: pyvmm boot --control PATH",
            ) from error
        request = {"command": command, **{name: value for name, value in arguments.items() if value is not None}}
        try:
            try:
                connection.sendall(json.dumps(request).encode() + b"\n")
            except BrokenPipeError:
                pass  # the server answers at once, and closes, when it serves too many already
            with connection.makefile("rb") as answers:
                for line in answers:
                    answer = json.loads(line)
                    if "progress" in answer:
                        if progress is not None:
                            progress(answer["progress"], answer["of"])
                    elif "error" in answer:
                        raise from_answer(answer)
                    else:
                        found: dict[str, Any] = answer["ok"]
                        return found
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HostError(f"{path}: {error}", code="control-broken") from error
    raise HostError(f"{path}: the machine ended before it answered", code="control-ended")
