"""``pyvmm run``: the shortest way from an image to a program that runs in a virtual machine of its own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pyvmm_kata.errors import VmmError

if TYPE_CHECKING:
    import argparse

    from pyvmm_kata.oci.context import Context

SUMMARY = "run a container in a virtual machine of its own"
EPILOG = """\
IMAGE is the name of an image, as debian:13-slim (see `pyvmm image`); a folder with a root file system (which the
container changes), a disk with one (an ext4, erofs or squashfs image file or block device), an OCI layout (DIR[:TAG]),
a docker or OCI archive, or another source of skopeo. Layouts and archives are unpacked, and removed at the end.

  pyvmm run --rm -it ./rootfs sh
  pyvmm run debian:13-slim cat /etc/os-release
  pyvmm run -p 8080:80 -v ./site:/srv:ro web.tar httpd -f -h /srv
  pyvmm run -d --name web -p 8080:80 web.tar; pyvmm logs -f web; pyvmm stop web; pyvmm rm web
"""


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    import argparse

    made = argparse.ArgumentParser(
        prog="pyvmm run",
        description="Run a program in a container that has a virtual machine of its own.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("-d", "--detach", action="store_true", help="print its name, and leave it running: see pyvmm ps, logs, attach")
    add("--rm", action="store_true", help="with -d: remove it at its end, with its log; without, this is so anyway")
    add("-i", "--interactive", action="store_true", help="pass standard input on")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add(
        "-v",
        "--volume",
        action="append",
        default=[],
        metavar="DIR:PATH[:ro]",
        help="mount a file or directory of the host",
    )
    add(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="[ADDR:]HOST:GUEST",
        help="forward a port of the host to it",
    )
    add("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="an environment variable")
    add("-m", "--memory", default="", metavar="SIZE", help="limit: 256M, 2G")
    add("--cpus", type=float, default=0.0, metavar="N", help="limit: 1.5")
    add(
        "--isolation",
        default="",
        choices=("auto", "vm", "sentry"),
        help="vm: a virtual machine; sentry: a kernel that needs no KVM; auto: vm where KVM can run one, else sentry "
        "(default: as the settings say)",
    )
    add("--network", default="user", metavar="user|none|PATH", help="user; none; or a network namespace")
    add("--name", default="", help="the container's name, which is its id")
    add("--hostname", default="", help="the host name inside it")
    add("-w", "--workdir", default="", metavar="PATH", help="where the program starts")
    add("-u", "--user", default="", metavar="UID[:GID]", help="user and group of the program, by number")
    add(
        "--pull",
        default="missing",
        choices=("missing", "always", "never"),
        help="when to pull an image from its registry (default: missing)",
    )
    add("--store", default="", metavar="DIR", help="of images, see `pyvmm image`")
    add("--read-only", action="store_true", help="mount its root file system read-only")
    add("--root", default="", metavar="DIR", help="where states are, as of pyvmm-oci --root")
    add("--config", default="", metavar="FILE", help="the administrator's settings")
    add("image", metavar="IMAGE", help="see below")
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="instead of the image's")
    return made


def main(argv: list[str]) -> int:
    """Run it; returns the program's exit status, 0 with ``--detach``.

    :raises VmmError: it cannot be run
    """
    import os
    import secrets
    from contextlib import nullcontext

    from pyvmm_kata import isolation
    from pyvmm_kata.bundle.checks import check_id
    from pyvmm_kata.oci.context import Context, default_root

    options = parser().parse_args(argv)
    container_id = check_id(options.name or f"run-{secrets.token_hex(6)}")
    root = os.path.abspath(options.root or default_root())
    chosen = options.isolation = isolation.choose(options.isolation) if options.isolation else ""
    context = Context(root, config=options.config, annotations=("network", "publish", "isolation"), isolation=chosen)
    with nullcontext() if chosen else isolation.way_out():
        return _run(context, options, container_id)


def _run(context: Context, options: argparse.Namespace, container_id: str) -> int:
    import json
    import os
    import tempfile

    from pyvmm_kata.bundle import images
    from pyvmm_kata.image_store.roots import open_root
    from pyvmm_kata.oci import create, run
    from pyvmm_kata.run_spec import make_spec

    if options.detach:
        from pyvmm_kata.machines.detach import run_detached

        run_detached(context, options, container_id)
        print(container_id)
        return 0
    folder = tempfile.mkdtemp(prefix="pyvmm-run-")
    try:
        with open_root(options.image, folder, pull=options.pull, store=options.store) as (rootfs, process):
            spec = make_spec(options, rootfs, process, folder, container_id)
            with open(os.path.join(folder, "config.json"), "w") as file:
                json.dump(spec, file)
            blank: dict[str, Any] = dict.fromkeys(create.OPTIONS, "")
            blank.update({"bundle": folder, "preserve-fds": 0, "detach": False, "keep": False})
            if not options.interactive and not options.tty:
                null = os.open(os.devnull, os.O_RDONLY)
                os.dup2(null, 0)
                os.close(null)
            return run.run(context, container_id, blank, insist=True)
    finally:
        images.remove(folder)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except VmmError as error:
        sys.exit(f"pyvmm: {error}")
