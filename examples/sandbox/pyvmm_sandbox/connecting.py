"""The network of a sandbox that is made: none, the host's, or what rules allow.  The gateway is imported if needed."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pyvmm_sandbox.errors import SandboxError, UsageError, gone

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pyvmm_kata import Container
    from pyvmm_sandbox.egress.client import Refusal, Started, Traffic
    from pyvmm_sandbox.egress.credentials import Credential, Secret
    from pyvmm_sandbox.egress.rules import Network

_RECORD = "sandbox-gateway"
"""The file in the folder of a container's state that has the gateway's folder."""
_END_S = 10.0
_HINT = 'Sandbox(..., network=Network(allow=["pypi.org"]))'


@dataclass(frozen=True)
class Wanted:
    """A network to make.

    :ivar kind: ``none`` or ``user``
    :ivar rules: None: there are none
    :ivar env: variables with placeholders
    :ivar credentials: for the gateway
    """

    kind: str
    rules: Network | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    credentials: Sequence[Credential] = field(default=(), repr=False)


def check(network: str | Network, secrets: Mapping[str, Secret] | None, ports: Sequence[str]) -> Wanted:
    """
    :raises UsageError: they do not fit together
    """
    if isinstance(network, str):
        if secrets:
            raise UsageError("secrets need rules that allow their hosts", hint=_HINT)
        return Wanted(network)
    from pyvmm_sandbox.egress.credentials import issue
    from pyvmm_sandbox.egress.rules import Network

    if not isinstance(network, Network):
        raise UsageError(f"network {network!r:.80} is not none, user or a Network", hint=_HINT)
    if ports:
        raise UsageError("a sandbox with network rules has no published ports", hint="box.ports.forward()")
    if os.geteuid() != 0:
        raise UsageError("network rules need root, for a network namespace", hint='network="none" or "user"')
    missing = [name for name in ("cryptography", "h11") if secrets and find_spec(name) is None]
    if missing:
        raise UsageError(f"secrets need {' and '.join(missing)}", hint=f"pip install {' '.join(missing)}")
    return Wanted("user", network, *issue(secrets or {}, network))


class Connected:
    """What the container gets.

    :param owner: names the process whose end removes the network before there is a sandbox
    :ivar network: ``none`` or ``user``
    :ivar namespace: where its user network is; empty: the host's
    """

    def __init__(self, wanted: Wanted, owner: str) -> None:
        self.network, self.namespace = wanted.kind, ""
        self.env = dict(wanted.env)
        self.volumes: list[str] = []
        self._gateway: Started | None = None
        if wanted.rules is not None:
            from pyvmm_sandbox.egress import client

            self._gateway = client.Started(wanted.rules, wanted.credentials, owner)
            self.namespace = self._gateway.namespace
            if self._gateway.certificates:
                self.volumes.append(f"{self._gateway.certificates}:{client.GUEST_CERTIFICATES}:ro")
                self.env |= dict.fromkeys(client.VARIABLES, client.GUEST_CERTIFICATES)

    def start(self, container: Container) -> None:
        """Start a container, to which the gateway belongs from now on.

        :raises VmmError: the gateway has ended, or the container cannot be started
        """
        if self._gateway is not None:
            with open(os.path.join(container.folder, _RECORD), "w", encoding="utf-8") as file:
                file.write(self._gateway.folder)
            _check_place(self.namespace)
            self._gateway.follow(container.pid)
        container.start()

    def close(self) -> None:
        """End the gateway."""
        if self._gateway is not None:
            self._gateway.close()


def _check_place(namespace: str) -> None:
    """Rules hold for what is in the namespace: a user network that was made anywhere else would have none.

    :raises SandboxError: it is not there
    """
    place = os.stat(namespace).st_ino
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/net").st_ino == place:
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    if file.read().startswith("passt"):
                        return
    raise SandboxError("the sandbox's network is not where its rules hold")


@contextlib.contextmanager
def connected(wanted: Wanted, owner: str) -> Iterator[Connected]:
    """Make the network; if the block fails, nothing of it is left.

    :param owner: names the process whose end removes it
    :raises SandboxError: it cannot be made
    """
    made = Connected(wanted, owner)
    try:
        yield made
    except BaseException:
        made.close()
        raise


def check_saving(state: str) -> None:
    """
    :raises UsageError: the sandbox cannot be saved or forked
    """
    if gateway_of(state):
        raise UsageError(
            "a sandbox with network rules cannot be forked or saved", hint='fork one with network="none" or "user"'
        )


def gateway_of(state: str) -> str:
    """The folder of the gateway of the container whose state is there; empty: it has none."""
    try:
        with open(os.path.join(state, _RECORD), encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def sweep_gateways(owner: str) -> None:
    """Remove the gateways that a process started for sandboxes which it did not finish."""
    from pyvmm_sandbox.egress import folders

    folders.sweep(owner, _END_S)


def remove_gateway(folder: str) -> None:
    """Remove the files of a gateway whose sandbox has ended, and wait for its end."""
    from pyvmm_sandbox.egress import client

    client.remove(folder)


class Rules:
    """The rules of a running sandbox: ``box.network``.

    :param name: of the sandbox
    :param state: the folder of its container's state
    """

    def __init__(self, name: str, state: str) -> None:
        self._name, self._state = name, state

    def get(self) -> Network:
        """The rules that hold now.

        :raises UsageError: the sandbox was made without rules
        :raises SandboxGone: it has ended
        """
        from pyvmm_sandbox.egress.rules import Network

        return Network(**self._ask({})["rules"])

    def pid(self) -> int:
        """The process number of the gateway.

        :raises UsageError: the sandbox was made without rules
        """
        return int(self._ask({})["pid"])

    def update(self, rules: Network) -> None:
        """Replace them.  Connections that the new ones do not allow end.

        :raises UsageError: the sandbox was made without rules
        :raises SandboxGone: it has ended
        """
        self._ask({"rules": {"allow": rules.allow, "deny": rules.deny, "default": rules.default}})

    def refusals(self) -> list[Refusal]:
        """What the rules have not allowed: the last 100, the oldest first.

        :raises UsageError: the sandbox was made without rules
        """
        from pyvmm_sandbox.egress.client import Refusal

        return [Refusal(*each) for each in self._ask({})["refusals"]]

    def traffic(self) -> Traffic:
        """How much it has sent and received through the gateway.

        :raises UsageError: the sandbox was made without rules
        """
        from pyvmm_sandbox.egress.client import Traffic

        return Traffic(**self._ask({})["counts"])

    def _ask(self, wanted: dict[str, Any]) -> dict[str, Any]:
        folder = gateway_of(self._state)
        if not folder:
            if not os.path.isdir(self._state):
                raise gone(self._name)
            raise UsageError(f"sandbox {self._name} has no network rules", hint=_HINT)
        from pyvmm_sandbox.egress import client

        return client.ask(folder, wanted)
