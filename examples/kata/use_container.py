#!/usr/bin/env python3
"""A container from Python, in a virtual machine of its own: use_container.py ROOTFS [KATA.TOML [ROOT]]"""

import sys

from pyvmm_kata import PIPE, Container

rootfs, config, root = (*sys.argv[1:], "", "")[:3]
with Container.create(rootfs, ["sleep", "600"], memory="64M", cpus=1, config=config, root=root) as container:
    container.start()
    with container.exec(["sh", "-c", "read name; echo hello $name; exit 3"], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b"world\n")
        print(process.stdout.readline().decode(), "ended with", process.wait())
    container.pause()
    print(container.status, container.stats()["memory"]["usage"]["usage"], "bytes")
    container.resume()
    (copy,) = container.fork(f"{container.id}-copy")
    with copy:
        print("a copy is", copy.status)
    container.kill()
    print("ended with", container.wait())
