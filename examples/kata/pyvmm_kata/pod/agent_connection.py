"""The first connection to the agent of a machine, which may be a clone."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pyvmm_kata.errors import GuestError, VmmError
from pyvmm_kata.pod import templates
from pyvmm_kata.pod.agent_client import AgentClient

if TYPE_CHECKING:
    from pyvmm_kata.pod.sandbox_config import SandboxConfig
    from pyvmm_kata.pod.vm import Vm

START_S = 60.0
SEED = 64


def connect_agent(vm: Vm, config: SandboxConfig) -> AgentClient:
    """The connection to the agent. A clone gets random numbers of its own and the time before any other request.
    Otherwise there is no sandbox, and its template is removed.

    :raises VmmError: the agent does not listen in a minute, or does not accept its new identity
    """
    name = config.sandbox_id
    if not vm.template and not config.continues:
        return AgentClient(vm.connect(START_S), name)
    agent: AgentClient | None = None
    try:
        agent = AgentClient(vm.connect(START_S), name)
        agent.reseed(os.urandom(SEED))
        agent.set_time(time.time())
    except VmmError as error:
        if agent is not None:
            agent.close()
        if config.continues:
            raise GuestError(
                f"sandbox {name}: the copy of a machine did not accept its new identity: {error}",
                code="checkpoint-identity",
            ) from error
        templates.forget(vm.template)
        raise GuestError(
            f"sandbox {name}: a clone of the template {vm.template} did not accept its new identity: {error}",
            code="template-identity",
            hint="the template is removed: another start boots",
        ) from error
    return agent
