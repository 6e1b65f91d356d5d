"""Checks of a pull request: the branch is merged on the host, and each check runs in a copy of one sandbox with it.

usage: ci.py IMAGE REPOSITORY BASE BRANCH CHECK..., where a check is a shell command. Its status is 1 if one fails.
"""

import subprocess
import sys
import tempfile

from pyvmm_sandbox import CommandTimeout, Sandbox

LIMIT_S = 600


def git(*words: str, cwd: str | None = None) -> None:
    options = ["-c", "user.name=ci", "-c", "user.email=ci@localhost", "-c", "core.hooksPath=/dev/null"]
    subprocess.run(["git", *options, *words], cwd=cwd, check=True, capture_output=True)


def merged(repository: str, base: str, branch: str, folder: str) -> None:
    """What the main line would be after the merge."""
    git("clone", "--quiet", "--branch", base, repository, folder)
    git("merge", "--quiet", "--no-edit", f"origin/{branch}", cwd=folder)


def check(copy: Sandbox, command: str) -> bool:
    """Run a check, and print how it went."""
    with copy:
        try:
            done = copy.run(command, cwd="/work", timeout=LIMIT_S)
        except CommandTimeout as late:
            done = late.result
    print(f"{'ok  ' if done.ok else 'FAIL'} {command}")
    if not done.ok:
        print(f"{done.stdout}{done.stderr}".rstrip())
    return done.ok


def main(image: str, repository: str, base: str, branch: str, checks: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder, Sandbox(image, cpus=2, memory="2G", timeout=3600) as box:
        merged(repository, base, branch, folder)
        box.files.upload(folder, "/work")
        results = [check(copy, command) for copy, command in zip(box.fork(len(checks)), checks, strict=True)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    _, image, repository, base, branch, *checks = sys.argv
    sys.exit(main(image, repository, base, branch, checks))
