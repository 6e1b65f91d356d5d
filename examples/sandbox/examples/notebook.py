"""Runs a notebook whose kernel is in a sandbox, and writes it with its outputs.

usage: notebook.py IMAGE NOTEBOOK.ipynb RESULT.ipynb, where the image has Python and ipykernel.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ARGV = ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]


def kernel(config: dict[str, Any]) -> dict[str, Any]:
    """A kernel specification; usually a file in ~/.local/share/jupyter/kernels."""
    provisioner = {"provisioner_name": "pyvmm-provisioner", "config": config}
    metadata = {"kernel_provisioner": provisioner}
    return {"argv": ARGV, "display_name": "in a sandbox", "language": "python", "metadata": metadata}


def main(image: str, source: str, result: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JUPYTER_PATH"] = folder
        place = Path(folder, "kernels", "boxed")
        place.mkdir(parents=True)
        Path(place, "kernel.json").write_text(json.dumps(kernel({"image": image, "memory": "1G"})))
        notebook = nbformat.read(source, as_version=4)
        NotebookClient(notebook, kernel_name="boxed", timeout=600).execute()
    nbformat.write(notebook, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
