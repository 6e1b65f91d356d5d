"""Sandboxes for mini-swe-agent: ``environment_class: pyvmm_sandbox.integrations.mini_swe_agent.PyvmmEnvironment``."""

from __future__ import annotations

from typing import Any

from minisweagent.exceptions import Submitted
from pydantic import BaseModel

from pyvmm_sandbox import Sandbox
from pyvmm_sandbox.errors import CommandTimeout, SandboxError

SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
"""The first line of the output of the command by which an agent ends its task."""


class PyvmmEnvironmentConfig(BaseModel):
    """What ``environment:`` of the agent's configuration can have.

    :ivar image: the name of an image, or a folder with a root file system
    :ivar cwd: where commands start
    :ivar timeout: seconds that a command may run
    :ivar interpreter: runs a command line
    :ivar options: others of :class:`~pyvmm_sandbox.Sandbox`
    """

    image: str
    cwd: str = "/"
    env: dict[str, str] = {}
    timeout: float = 30
    interpreter: list[str] = ["bash", "-lc"]
    options: dict[str, Any] = {}


class PyvmmEnvironment:
    """A sandbox that ends with the agent."""

    def __init__(self, **config: Any) -> None:
        self.config = PyvmmEnvironmentConfig(**config)
        options = {"timeout": None, **self.config.options}
        self._sandbox = Sandbox(self.config.image, env=self.config.env, **options)

    def execute(self, action: dict[str, Any], cwd: str = "", *, timeout: float | None = None) -> dict[str, Any]:
        """Run a command line; its output and its errors in the order in which they come.

        :raises Submitted: the agent has ended its task
        """
        command = ["sh", "-c", 'exec "$@" 2>&1', "sh", *self.config.interpreter, action.get("command", "")]
        try:
            limit = timeout or self.config.timeout
            result = self._sandbox.run(command, cwd=cwd or self.config.cwd, timeout=limit)
        except SandboxError as error:
            printed = error.result.stdout if isinstance(error, CommandTimeout) else ""
            return {
                "output": printed,
                "returncode": -1,
                "exception_info": f"the command was not executed to its end: {error}",
                "extra": {"exception_type": type(error).__name__, "exception": str(error)},
            }
        first, _, rest = result.stdout.lstrip().partition("\n")
        if result.ok and first.strip() == SUBMIT:
            extra = {"exit_status": "Submitted", "submission": rest}
            raise Submitted({"role": "exit", "content": rest, "extra": extra})
        return {"output": result.stdout + result.stderr, "returncode": result.exit_code, "exception_info": ""}

    def get_template_vars(self, **others: Any) -> dict[str, Any]:
        """What prompts can name: the configuration, and the sandbox's system by the names of :func:`platform.uname`."""
        found = self._sandbox.run("for name in s n r v m; do uname -$name; done").stdout.splitlines()
        system = dict(zip(("system", "node", "release", "version", "machine"), found, strict=False))
        return {**self.config.model_dump(), **system, **others}

    def serialize(self) -> dict[str, Any]:
        """For the record of a run."""
        kind = f"{type(self).__module__}.{type(self).__name__}"
        return {"info": {"config": {"environment": self.config.model_dump(mode="json"), "environment_type": kind}}}

    def cleanup(self) -> None:
        """End the sandbox."""
        self._sandbox.kill()
