"""``pyvmm image``: the images of this host."""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import TYPE_CHECKING

from pyvmm_kata.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from pyvmm_kata.image_store.store import ImageStore, Registry, StoredImage

    Make = Callable[..., argparse.ArgumentParser]

SUMMARY = "pull, build, list and remove images of containers"
EPILOG = """\
An image is stored as one read-only file system, which all machines share. NAME is written as for docker and podman:
debian:13-slim is docker.io/library/debian:13-slim. An id from `pyvmm image ls` can be shortened.

  pyvmm image pull python:3.13-slim
  pyvmm run -it python:3.13-slim python3
  docker save web | pyvmm image import /dev/stdin web:1
"""


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    import argparse

    made = argparse.ArgumentParser(
        prog="pyvmm image",
        description="Images of containers on this host.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--store", default="", metavar="DIR", help="default: /var/lib/pyvmm/images, or below ~/.local/share"
    )
    commands = made.add_subparsers(dest="action", metavar="COMMAND", required=True)
    _add_sources(commands.add_parser)
    _add_lists(commands.add_parser)
    return made


def _add_sources(make: Make) -> None:
    pull = make("pull", help="copy an image of a registry", description="Copy an image of a registry.")
    pull.add_argument("name", metavar="NAME")
    pull.add_argument("-q", "--quiet", action="store_true", help="print the id alone")
    pull.add_argument("--authfile", default="", metavar="FILE", help="credentials, as `podman login` writes them")
    pull.add_argument("--username", default="", metavar="USER", help="of the registry; with --password-stdin")
    pull.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    pull.add_argument("--cert-dir", default="", metavar="DIR", help="*.crt: certificate authorities of the registry")
    pull.add_argument("--tls-verify", choices=("true", "false"), default="true", help="false: accept HTTP, too")
    build = make(
        "build",
        help="build an image from a Dockerfile",
        description="Build an image from a Dockerfile, with buildah.",
    )
    build.add_argument("context", metavar="DIR", help="the files that the Dockerfile can copy")
    build.add_argument("name", metavar="NAME")
    build.add_argument("-f", "--file", default="", help="default: Containerfile or Dockerfile in DIR")
    build.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    add = make(
        "import",
        help="copy an image that is on this host",
        description="Copy an OCI layout (DIR[:TAG]), a docker or OCI archive, or a folder with a root file system.",
    )
    add.add_argument("source", metavar="SOURCE")
    add.add_argument("name", metavar="NAME", nargs="?", default="")


def _add_lists(make: Make) -> None:
    shown = make("ls", help="list images", description="List images, the newest first.")
    shown.add_argument("--json", action="store_true", help="as JSON")
    shown.add_argument("-q", "--quiet", action="store_true", help="ids alone")
    inspect = make("inspect", help="print an image's record", description="Print what is known of images, as JSON.")
    inspect.add_argument("names", metavar="NAME", nargs="+")
    remove = make(
        "rm", help="remove images", description="Remove names of images; with the last name, or by its id, the image."
    )
    remove.add_argument("names", metavar="NAME", nargs="+")
    prune = make(
        "prune",
        help="remove images without a name, and leftovers",
        description="Remove images without a name, and what interrupted commands have left.",
    )
    prune.add_argument("-a", "--all", action="store_true", help="all images that no machine uses")


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status.

    :raises VmmError: it cannot be done
    """
    options = parser().parse_args(argv)
    from pyvmm_kata.image_store.store import ImageStore

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what is unfinished is removed

    store = ImageStore(options.store)
    if options.action in ("ls", "inspect"):
        images = store.all_images() if options.action == "ls" else [store.get(name) for name in options.names]
        _print(images, options)
    elif options.action == "rm":
        return _remove(store, options.names)
    elif options.action == "prune":
        gone, freed = store.prune(unused=options.all)
        print(f"removed {len(gone)} images, freed {_megabytes(freed)}")
    else:
        image = _new(store, options)
        print(image.id if getattr(options, "quiet", False) else f"{image.id}  {_megabytes(image.size)}")
    return 0


def _new(store: ImageStore, options: argparse.Namespace) -> StoredImage:
    if options.action == "pull":
        return store.pull(options.name, _registry(options), show=not options.quiet and sys.stderr.isatty())
    if options.action == "build":
        given = [f"--build-arg={each}" for each in options.build_arg]
        return store.build(options.context, options.name, file=options.file, options=given)
    return store.add(options.source, options.name)


def _registry(options: argparse.Namespace) -> Registry:
    from pyvmm_kata.image_store.store import Registry

    if options.password_stdin != bool(options.username):
        raise ConfigError("--username and --password-stdin belong together", code="image-credentials")
    password = sys.stdin.readline().rstrip("\n") if options.password_stdin else ""
    return Registry(
        options.authfile,
        f"{options.username}:{password}" if options.username else "",
        options.cert_dir,
        options.tls_verify == "true",
    )


def _remove(store: ImageStore, names: Sequence[str]) -> int:
    """All that can be removed; 1 if one could not."""
    status = 0
    for name in names:
        try:
            image, whole = store.remove(name)
            print(f"removed {image.id}" if whole else f"removed the name {name}")
        except ConfigError as error:
            sys.stderr.write(f"pyvmm: {error}\n")
            status = 1
    return status


def _print(images: Sequence[StoredImage], options: argparse.Namespace) -> None:
    from pyvmm_kata.image_store.names import short_name

    if options.action == "inspect" or options.json:
        print(json.dumps([each._asdict() for each in images], indent=2))
        return
    if options.quiet:
        for each in images:
            print(each.id)
        return
    rows = [("NAME", "ID", "SIZE", "CREATED")]
    for each in images:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.created))
        for name in each.names or ("<none>",):
            rows.append((short_name(name), each.id.removeprefix("sha256:")[:12], _megabytes(each.size), created))
    width = max(len(name) for name, *_ in rows)
    for name, digits, size, created in rows:
        print(f"{name:{width}}  {digits:12}  {size:>9}  {created}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
