"""Trials of a task by Harbor's own command, with its environment `e2b` and its agent that runs the task's solution."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from harbor.cli.main import app
from typer.testing import CliRunner

folder = Path(sys.argv[1])
task = folder / "task"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise it downloads one
TASK = """\
schema_version = "1.4"
[metadata]
[verifier]
timeout_sec = 120.0
[agent]
timeout_sec = 120.0
[environment]
workdir = "/app"
"""
TEST = """\
#!/bin/bash
mkdir -p /logs/verifier
[ "$(cat /app/answer)" = "of the image, of the task" ] && echo 1 > /logs/verifier/reward.txt
[ -e /logs/verifier/reward.txt ] || echo 0 > /logs/verifier/reward.txt
"""


def write(name: str, content: str) -> None:
    """A file of the task."""
    path = task / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)


write("task.toml", TASK)
write("instruction.md", "write to /app/answer what the image and the task say")
write("environment/Dockerfile", "FROM base\nRUN mkdir -p /app && echo of the image > /app/made\nCOPY data.txt /app/\n")
write("environment/data.txt", "of the task\n")
write("solution/solve.sh", '#!/bin/bash\necho "$(cat /app/made), $(cat /app/data.txt)" > /app/answer\n')
write("tests/test.sh", TEST)
words = f"run --path {task} --agent oracle --jobs-dir {folder}/jobs --job-name one -k 2 -n 2 --yes --env e2b"
words += " --ek allow_memory_overcommit=false"  # these sandboxes have the kernel of the host
ran = CliRunner().invoke(app, words.split())
assert ran.exit_code == 0, ran.output
results = [json.loads(each.read_text()) for each in (folder / "jobs" / "one").glob("*/result.json")]
rewards = [(each["verifier_result"] or {}).get("rewards") for each in results]
assert rewards == [{"reward": 1.0}] * 2, json.dumps(results, indent=1)
