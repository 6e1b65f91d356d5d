"""The sandbox `e2b` of inspect-sandboxes, in an evaluation whose model is a mock."""

from __future__ import annotations

import sys
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Target, accuracy, scorer
from inspect_ai.solver import Generate, TaskState, solver
from inspect_ai.util import sandbox

folder = sys.argv[1]


@solver
def use_the_sandbox():  # type: ignore[no-untyped-def]
    async def solve(state: TaskState, _: Generate) -> TaskState:
        box = sandbox()
        done = await box.exec(["sh", "-c", "read word; echo got $word; echo err >&2; exit 3"], input="this\n")
        assert (done.returncode, done.stdout, done.stderr) == (3, "got this\n", "err\n"), done
        await box.write_file(f"{folder}/a/b.txt", "written")
        assert await box.read_file(f"{folder}/a/b.txt") == "written"
        try:
            await box.read_file(f"{folder}/none")
        except FileNotFoundError:
            state.metadata["done"] = True
        return state

    return solve


@scorer(metrics=[accuracy()])
def is_done():  # type: ignore[no-untyped-def]
    async def score(state: TaskState, _: Target) -> Score:
        return Score(value=1 if state.metadata.get("done") else 0)

    return score


def run(of_sandbox: str | tuple[str, str]) -> None:
    task = Task(dataset=[Sample("x"), Sample("y")], solver=use_the_sandbox(), scorer=is_done(), sandbox=of_sandbox)
    (log,) = eval(task, model="mockllm/model", display="none", log_dir=f"{folder}/logs")
    assert log.status == "success" and log.results is not None, log.error
    assert log.results.scores[0].metrics["accuracy"].value == 1


run("e2b")
Path(folder, "Dockerfile").write_text(f"FROM base\nWORKDIR {folder}\nRUN echo built > built\n")
run(("e2b", f"{folder}/Dockerfile"))
assert Path(folder, "built").read_text() == "built\n"
