"""An agent of smolagents, whose code runs in a sandbox; its model is a script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
from smolagents import ChatMessage, CodeAgent, MessageRole, Model


class Script(Model):  # type: ignore[misc]
    """Writes code, and then the answer that depends on its state."""

    def __init__(self) -> None:
        super().__init__(model_id="script")
        self.turns = iter(
            [
                "import os\nwhere = os.environ['FROM']\nprint('prepared', where)",
                "final_answer([where, 6 * 7])",
            ]
        )

    def generate(self, messages: Any, *_: Any, **__: Any) -> ChatMessage:
        content = f"Thought: go on\n<code>\n{next(self.turns)}\n</code>"
        return ChatMessage(role=MessageRole.ASSISTANT, content=content)


# It sends definitions that import numpy and PIL, which E2B's image has and a template of the server must have, too
packages = str(Path(numpy.__file__).parents[1])
options = {"envs": {"FROM": "the sandbox", "PYTHONPATH": packages}}
with CodeAgent(tools=[], model=Script(), executor_type="e2b", executor_kwargs=options, max_steps=3) as agent:
    assert agent.run("what is it?") == ["the sandbox", 42]
