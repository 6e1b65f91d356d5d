"""The runtime `e2b` of verifiers, as its environments use it: a template of an image, programs, processes and files."""

from __future__ import annotations

import asyncio
import sys

from verifiers.v1.runtimes.e2b import E2BConfig, E2BRuntime

folder = sys.argv[1]


async def main() -> None:
    runtime = E2BRuntime(E2BConfig(image="base", cpu=1, memory=0.5, workdir=folder), "one")
    await runtime.start()
    try:
        done = await runtime.run(["sh", "-c", "echo $A; pwd; echo err >&2; exit 3"], {"A": "a b"})
        assert (done.exit_code, done.stdout, done.stderr) == (3, f"a b\n{folder}\n", "err\n"), done
        done = await runtime.run_program(["sh", "-c", "echo out; exit 4"], {})
        assert (done.exit_code, done.stdout) == (4, "out\n"), done
        data = bytes(range(256)) * 1000
        await runtime.write("deep/data", data)
        assert await runtime.read("deep/data") == data
        process = await runtime.open_process(["sh", "-c", "read line; printf '\\377%s' \"$line\""], {})
        await process.write(b"typed\n")
        assert b"".join([each async for each in process.stdout]) == b"\xfftyped"
        assert await process.wait() == 0
        sleeping = await runtime.open_process(["sleep", "600"], {})
        await sleeping.kill()
        assert await sleeping.wait() != 0
        await runtime.run_background(["sh", "-c", "echo begun"], {}, f"{folder}/log")
        while not (await runtime.run(["cat", f"{folder}/log"], {})).stdout:
            pass
        assert (await runtime.expose(8000) or "").startswith("https://8000-")
    finally:
        await runtime.stop()


asyncio.run(main())
