"""The requests that the guest's agent serves: a policy, from a file or an annotation.

The form is that of Kata's policies, as far as their rules are constants::

    package agent_policy

    default ExecProcessRequest := false
    default CreateContainerRequest := true

A request that no rule names is refused.  The agent reads the same text (``linux-guest/agent/policy.c``) and enforces
it; what is wrong with it is found here, before anything is made.
"""

from __future__ import annotations

from typing import NamedTuple

from pyvmm_kata.errors import ConfigError

MAX_SIZE = 64 << 10
MAX_LINES = 1000
NEEDED = ("CreateSandbox", "CreateContainer", "StartContainer", "WaitProcess", "RemoveContainer", "DestroySandbox")
"""Without one of these no container starts, or ends with its files as they should be."""
SERVED = (
    *NEEDED,
    *("AddARPNeighbors", "CloseStdin", "CopyFile", "ExecProcess", "GetOOMEvent", "GuestDetails", "ListInterfaces"),
    *("ListProcesses", "ListRoutes", "OnlineCPUMem", "PauseContainer", "ReadStream", "ReseedRandomDev"),
    *("ResumeContainer", "SetGuestDateTime", "SetPolicy", "SignalProcess", "StatsContainer", "Storage"),
    *("TtyWinResize", "UpdateContainer", "UpdateInterface", "UpdateRoutes", "WriteStream"),
)
"""Requests of the agent, each without the ``Request`` at the end of its name.  ``ListProcesses`` and ``Storage`` (what
a container brings with it that is mounted in the guest) are none of Kata's; without a rule, the latter is allowed."""
KATA_ONLY = (
    *("AddSwap", "AddSwapPath", "GetMetrics", "GetVolumeStats", "MemHotplugByProbe", "MemAgentCompactSet"),
    *("MemAgentMemcgSet", "PullImage", "RemoveStaleVirtiofsShareMounts", "ResizeVolume", "SetInitdata", "SetIptables"),
    *("GetIPTables", "SetIPTables", "GetDiagnosticData", "StartTracing", "StopTracing", "UpdateEphemeralMounts"),
)
"""Requests of Kata's agent that ours has not: rules for them are read, and have no effect."""
SUFFIX = "Request"


class Policy(NamedTuple):
    """A valid policy.

    :ivar name: its name in errors
    :ivar text: its text for the agent
    """

    name: str
    text: str


def read(path: str, code: str = "kata-config") -> Policy:
    """The policy in a file.

    :raises ConfigError: it cannot be read, or is not a policy
    """
    try:
        with open(path, "rb") as file:
            return parse(file.read(MAX_SIZE + 1), path, code)
    except OSError as error:
        raise ConfigError(f"policy {path}: {error.strerror}", code=code) from error


def decode(text: str, name: str) -> Policy:
    """The policy in an annotation, which is base64, as Kata's is.

    :raises ConfigError: it is none
    """
    import base64

    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ConfigError(f"annotation {name}: no base64: {error}", code="oci-annotation") from error
    return parse(data, f"of the annotation {name}", "oci-annotation")


def parse(data: bytes, name: str, code: str) -> Policy:
    """
    :param name: of the policy
    :param code: of the errors
    :raises ConfigError: it contains anything other than such rules, or refuses what every container needs
    """

    def wrong(problem: str, line: int = 0, hint: str = "") -> ConfigError:
        where = f", line {line}" if line else ""
        return ConfigError(f"policy {name}{where}: {problem}", code=code, hint=hint)

    if len(data) > MAX_SIZE or data.count(b"\n") >= MAX_LINES:
        raise wrong(f"more than {MAX_SIZE >> 10} KiB or {MAX_LINES} lines")
    if not data.isascii() or b"\0" in data:
        raise wrong("no text of ASCII characters")
    text = data.decode()
    rules: dict[str, bool] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].replace("\t", " ").replace("\r", " ").split(" ")
        words = [word for word in words if word]
        if not words or (len(words) == 2 and words[0] in ("package", "import")):
            continue
        if len(words) != 4 or words[0] != "default" or words[2] not in (":=", "=") or words[3] not in ("true", "false"):
            raise wrong(
                f"{line.strip()!r:.60} is no rule", number, "rules are like: default ExecProcessRequest := false"
            )
        request = words[1]
        if request.removesuffix(SUFFIX) not in (*SERVED, *KATA_ONLY) or not request.endswith(SUFFIX):
            raise wrong(f"there is no request {request:.60}", number)
        if request in rules:
            raise wrong(f"a second rule for {request}", number)
        rules[request] = words[3] == "true"
    for needed in NEEDED:
        if not rules.get(needed + SUFFIX):
            hint = f"default {needed}{SUFFIX} := true"
            raise wrong(f"{needed}{SUFFIX} is not allowed, and so no container runs", 0, hint)
    return Policy(name, text)
