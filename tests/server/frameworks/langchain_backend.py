"""The sandbox of langchain-e2b: a backend of deepagents, with its commands and its tools for files."""

from __future__ import annotations

import sys

import e2b
from langchain_e2b import E2BSandbox

folder = sys.argv[1]
with e2b.Sandbox.create(timeout=60) as box:
    backend = E2BSandbox(sandbox=box, workdir=folder)
    done = backend.execute("pwd; echo err >&2; exit 3")
    assert folder in done.output and "err" in done.output and done.exit_code == 3
    (sent,) = backend.upload_files([(f"{folder}/a.txt", b"one\ntwo\n")])
    assert sent.error is None
    (found,) = backend.download_files([f"{folder}/a.txt"])
    assert found.content == b"one\ntwo\n"
    (missing,) = backend.download_files([f"{folder}/none"])
    assert missing.error == "file_not_found"
    assert backend.write(f"{folder}/b.txt", "three\n").error is None
    assert backend.edit(f"{folder}/b.txt", "three", "four").error is None
    assert backend.execute(f"cat {folder}/b.txt").output == "four\n"
    assert "two" in str(backend.read(f"{folder}/a.txt"))
    assert f"{folder}/b.txt" in str(backend.ls(folder))
    assert "a.txt" in str(backend.grep("two", path=folder))
