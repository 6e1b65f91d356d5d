"""The field numbers of the agent's messages, for the core: `core/control/messages.h`.

They come from the .proto files of the container runtime, whose host's side is the client.
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PROTO = HERE.parent / "kata" / "proto"
HEADER = HERE / "core" / "control" / "messages.h"
FILES = ("ttrpc", "status", "agent", "types", "oci")
"""Whose messages the core reads or writes, as far as :data:`WANTED` names them."""
WANTED = (
    *("Request", "Response", "Status", "HealthCheckResponse", "VersionCheckResponse", "CreateSandboxRequest"),
    *("CreateContainerRequest", "ExecProcessRequest", "SignalProcessRequest", "WaitProcessResponse"),
    *("StatsContainerResponse", "CgroupStats", "CpuStats", "CpuUsage", "MemoryStats", "MemoryData", "PidsStats"),
    *(
        "ListProcessesRequest",
        "ListProcessesResponse",
        "WriteStreamRequest",
        "WriteStreamResponse",
        "ReadStreamRequest",
    ),
    *("ReadStreamResponse", "TtyWinResizeRequest", "Storage", "GuestDetailsResponse", "AgentDetails", "OOMEvent"),
    *("Spec", "Process", "Box", "User", "LinuxCapabilities", "POSIXRlimit", "Mount", "Root", "Linux", "LinuxDevice"),
    *("LinuxResources", "LinuxMemory", "LinuxCPU", "LinuxPids", "UpdateContainerRequest", "ThrottlingData"),
    *("LinuxSeccomp", "LinuxSeccompArg", "LinuxSyscall", "LinuxNamespace", "LinuxIDMapping", "SetPolicyRequest"),
    *("UpdateInterfaceRequest", "UpdateRoutesRequest", "Routes", "Interface", "IPAddress", "Route"),
)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_MESSAGE = re.compile(r"^message (\w+) \{(.*?)^\}", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^\s*(?:repeated |optional )?(?:map<[^>]+>|[\w.]+) (\w+) = (\d+);", re.MULTILINE)
_WIDTH = 118


def fields() -> dict[str, dict[str, int]]:
    """The numbers of the fields of each message."""
    found = {}
    for name in FILES:
        text = _COMMENT.sub("", (PROTO / f"{name}.proto").read_text())
        for message, body in _MESSAGE.findall(text):
            found[message] = {field: int(number) for field, number in _FIELD.findall(body)}
    return {name: found[name] for name in WANTED}


def _enum(message: str, numbers: dict[str, int]) -> str:
    line, lines = "enum {", []
    for field, number in numbers.items():
        word = f" {message}_{field} = {number},"
        if len(line) + len(word) > _WIDTH:
            lines.append(line)
            line = "\t" + word.lstrip()
        else:
            line += word
    return "\n".join([*lines, line + " };"])


def header() -> str:
    """The source of the header."""
    return "\n".join(
        [
            "/* SPDX-License-Identifier: Apache-2.0 */",
            "/* Generated from the .proto files of the runtime: python -m pyvmm_sentry.generate --write */",
            "#ifndef SENTRY_MESSAGES_H",
            "#define SENTRY_MESSAGES_H",
            "",
            *(_enum(message, numbers) for message, numbers in fields().items()),
            "",
            "#endif",
            "",
        ]
    )
