"""Compiles the .proto files beside it into one descriptor set, which pyvmm_kata.proto makes message classes of.

A descriptor set is plain data: unlike generated Python code it does not depend on the version of protobuf that reads
it.
usage: compile.py [OUTPUT]; needs grpcio-tools, which brings protoc and the well-known types.
"""

from __future__ import annotations

import os
import sys
from importlib import resources

HERE = os.path.dirname(os.path.abspath(__file__))
OUTPUT = os.path.join(os.path.dirname(HERE), "pyvmm_kata", "messages.binpb")


def compile_messages(output: str = OUTPUT) -> None:
    """Write the descriptor set of all .proto files to `output`. Raises RuntimeError when protoc finds a mistake."""
    from grpc_tools import protoc

    sources = sorted(name for name in os.listdir(HERE) if name.endswith(".proto"))
    well_known = str(resources.files("grpc_tools") / "_proto")
    command = ["protoc", f"-I{HERE}", f"-I{well_known}", "--include_imports", f"--descriptor_set_out={output}.new"]
    if status := protoc.main([*command, *sources]):
        raise RuntimeError(f"protoc failed with status {status} for {', '.join(sources)} in {HERE}")
    os.replace(f"{output}.new", output)


if __name__ == "__main__":
    compile_messages(*sys.argv[1:2])
