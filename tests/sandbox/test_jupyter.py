"""Notebooks whose kernels run in sandboxes, with Jupyter's own clients and machines that run their programs here."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kata.oci_runtime import needs_namespaces
from tests.sandbox.fake_machines import end_programs
from tests.sandbox.test_code import kernels
from tests.sandbox.test_sandbox import Python, place, python

__all__ = ["kernels", "place", "python"]

BEGIN = """
import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
os.environ["JUPYTER_RUNTIME_DIR"] = place + "/runtime"
os.environ["JUPYTER_PATH"] = place
def there():
    return [each.name for each in Sandbox.list(root=where["root"])]
"""


@pytest.fixture
def spec(place: Path) -> Iterator[str]:
    """The begin of a program that has a kernel specification."""
    folder = place / "kernels" / "boxed"
    folder.mkdir(parents=True)
    where = {"config": f"{place}/kata.toml", "root": f"{place}/state"}
    config = {"image": f"{place}/rootfs", "python": sys.executable, "options": where}
    provisioner = {"provisioner_name": "pyvmm-provisioner", "config": config}
    words = {
        "argv": ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "in a sandbox",
        "language": "python",
        "env": {"FROM_SPEC": "7", "PYVMM_PLACE": str(place)},
        "metadata": {"kernel_provisioner": provisioner},
    }
    (folder / "kernel.json").write_text(json.dumps(words))
    yield BEGIN
    end_programs("PYVMM_PLACE", place)


@needs_namespaces
def test_a_notebook_runs_in_a_sandbox(python: Python, spec: str) -> None:
    code = """
    def notebook(*cells):
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        NotebookClient(made, kernel_name="boxed", timeout=60).execute()
        return made
    os.environ["FROM_HOST"] = "a secret"
    made = notebook("x = 6", "print('out')\\nx * 7", "import os; os.environ.get('FROM_HOST'), os.environ['FROM_SPEC']")
    outputs = [[each.get("text") or each["data"]["text/plain"] for each in cell.outputs] for cell in made.cells]
    assert outputs == [[], ["out\\n", "42"], ["(None, '7')"]]
    assert "ZeroDivisionError" in str(raises(CellExecutionError, notebook, "1 / 0"))
    assert there() == []
    """
    python(spec + textwrap.dedent(code))


@needs_namespaces
def test_a_kernel_is_interrupted_restarted_and_ended(python: Python, spec: str) -> None:
    code = """
    async def run(client, code):
        reply = await client.execute_interactive(code, timeout=60, output_hook=lambda message: None)
        return reply["content"]["status"]
    async def main():
        kernel = AsyncKernelManager(kernel_name="boxed")
        await kernel.start_kernel()
        client = kernel.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        (box,) = there()
        assert await run(client, "x = 1") == "ok"
        # Interrupted, it keeps its state
        ready = asyncio.Event()
        def heard(message):
            if message["msg_type"] == "stream":
                ready.set()
        running = asyncio.ensure_future(
            client.execute_interactive("import time; print('ready', flush=True); time.sleep(600)", output_hook=heard)
        )
        await ready.wait()
        await kernel.interrupt_kernel()
        assert (await running)["content"]["ename"] == "KeyboardInterrupt"
        assert await run(client, "assert x == 1") == "ok"
        # Restarted, it has none, in the same sandbox
        await kernel.restart_kernel()
        await client.wait_for_ready(timeout=60)
        assert await run(client, "x") == "error" and there() == [box]
        # Killed from outside of Jupyter
        client.execute("import os; os._exit(3)")
        while await kernel.is_alive():
            await asyncio.sleep(0.01)
        await kernel.restart_kernel(now=True)
        await client.wait_for_ready(timeout=60)
        assert await run(client, "1") == "ok" and there() == [box]
        # The whole sandbox has gone
        kernel.provisioner.box.kill()
        while await kernel.is_alive():
            await asyncio.sleep(0.01)
        await kernel.restart_kernel(now=True)
        await client.wait_for_ready(timeout=60)
        assert await run(client, "1") == "ok" and there() != [box]
        client.stop_channels()
        await kernel.shutdown_kernel()
        assert there() == [] and not await kernel.is_alive()
        kernel = AsyncKernelManager(kernel_name="boxed")
        await kernel.start_kernel()
        await kernel.shutdown_kernel(now=True)
        assert there() == []
    asyncio.run(main())
    """
    python(spec + textwrap.dedent(code))


@needs_namespaces
def test_cells_of_the_magic_run_in_a_sandbox(python: Python, kernels: str) -> None:
    code = """
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "pyvmm_sandbox")
    magics = shell.magics_manager.registry["SandboxMagics"]
    magics.options = where
    def cell(text, arguments=""):
        with capture_output() as shown:
            result = shell.run_cell(f"%%sandbox {arguments}\\n{text}")
        return result.error_in_exec, shown
    error, _ = cell("1")
    assert isinstance(error, UsageError) and "%sandbox IMAGE" in error.hint
    shell.run_line_magic("sandbox", rootfs)
    error, _ = cell("x = 6")
    assert error is None, repr(error)
    error, shown = cell("print('out'); x * 7")
    assert error is None and shown.stdout == "out\\n" and shown.outputs[0].data["text/plain"] == "42"
    error, shown = cell("x / 0")
    assert str(error) == "ZeroDivisionError: division by zero"
    assert "division by zero" in shown.stdout and "magic.py" not in shown.stdout, shown.stdout
    assert "x" not in shell.user_ns
    assert cell("echo $((6 * 7))", "--sh")[1].stdout == "42\\n"
    assert isinstance(cell("exit 3", "--sh")[0], CommandFailed)
    name = magics.box.name
    assert isinstance(cell("import time; time.sleep(60)", "--timeout=2")[0], CodeTimeout)
    shell.run_line_magic("sandbox", "--kill")
    assert magics.box is None and name not in [each.name for each in Sandbox.list(root=where["root"])]
    """
    python(kernels + code)
