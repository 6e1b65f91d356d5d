"""The E2B sandbox of openai-agents: its workspace, commands, and a session that another one continues."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path

from agents.extensions.sandbox.e2b import E2BSandboxClient, E2BSandboxClientOptions
from agents.sandbox import Manifest

ROOT = Path(sys.argv[1])


async def use() -> None:
    client = E2BSandboxClient()
    options = E2BSandboxClientOptions(sandbox_type="e2b", template="base", timeout=60, envs={"FROM": "the sandbox"})
    session = await client.create(options=options, manifest=Manifest(root=str(ROOT)))
    async with session:
        done = await session.exec("echo $FROM; pwd")
        assert (done.stdout, done.exit_code) == (f"the sandbox\n{ROOT}\n".encode(), 0), done
        assert (await session.exec("exit 3")).exit_code == 3
        await session.write(Path("a.txt"), io.BytesIO(b"written"))
        assert (await session.read(Path("a.txt"))).read() == b"written"
        assert await session.running()
        again = await client.resume(session.state)
        assert (await again.exec("cat a.txt")).stdout == b"written"
    await client.delete(session)


asyncio.run(use())
