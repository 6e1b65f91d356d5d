"""``pyvmm-firecracker``: the command line of Firecracker."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from pyvmm_firecracker import VERSION
from pyvmm_firecracker.fault import Fault
from pyvmm_firecracker.instance import Instance
from pyvmm_firecracker.logs import LEVELS
from pyvmm_firecracker.metrics import INTERVAL_S
from pyvmm_firecracker.routes import Api
from vmm import ConsoleConfig, VmmError, restrict_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

SUMMARY = "serve Firecracker's API on a unix socket"
SOCKET = "/run/firecracker.socket"
BODY = 51200
SNAPSHOT_VERSION = "1.0.0"
"""Of the format that ``snapshots.py`` writes."""
BAD_CONFIGURATION, BAD_ARGUMENT = 152, 153
"""Exit statuses of Firecracker (src/vmm/src/lib.rs: ``FcExitCode``)."""
_FILES = {"memory-hotplug": "hotplug/memory", "mmds-config": "mmds/config"}


def parser() -> argparse.ArgumentParser:
    """The options of Firecracker 1.17."""
    made = argparse.ArgumentParser(
        prog="pyvmm-firecracker",
        description="Serve Firecracker's API on a unix socket, and run its machine on pyvmm.",
        epilog="The guest's console is this terminal. Options that change nothing here are accepted: "
        "--start-time-us, --start-time-cpu-us, --parent-cpu-time-us, --boot-timer, --module, --show-log-origin.",
    )
    made.add_argument("--api-sock", default=SOCKET, metavar="PATH", help=f"the socket (default: {SOCKET})")
    made.add_argument("--id", default="anonymous-instance", help="name of the instance: letters, digits and -")
    made.add_argument("--config-file", metavar="FILE", help="a configuration in JSON: boot it at once")
    made.add_argument("--no-api", action="store_true", help="serve no socket; with --config-file")
    made.add_argument("--no-seccomp", action="store_true", help="run the machine in this process, without a jail")
    made.add_argument("--enable-pci", action="store_true", help="devices on a PCI bus, where more can be plugged in")
    made.add_argument("--log-path", metavar="FILE", help="append the log to this file")
    made.add_argument("--level", type=str.capitalize, choices=LEVELS, default="Info", help="what is logged")
    made.add_argument("--show-level", action="store_true", help="log the level of each line")
    made.add_argument("--metrics-path", metavar="FILE", help="append metrics to this file")
    made.add_argument(
        "--http-api-max-payload-size", type=int, default=BODY, metavar="BYTES", help="of a request's body"
    )
    made.add_argument("--metadata", metavar="FILE", help="JSON for the metadata service")
    made.add_argument(
        "--mmds-size-limit", type=int, metavar="BYTES", help="of metadata (default: --http-api-max-payload-size)"
    )
    made.add_argument("--version", action="version", version=f"Firecracker v{VERSION}")
    made.add_argument("--snapshot-version", action="version", version=f"v{SNAPSHOT_VERSION}")
    made.add_argument("--describe-snapshot", metavar="FILE", help="print the version of the format of a snapshot")
    made.add_argument("--seccomp-filter", metavar="VALUE", help=argparse.SUPPRESS, action=_Refused)
    for flag in ("--start-time-us", "--start-time-cpu-us", "--parent-cpu-time-us", "--module"):
        made.add_argument(flag, metavar="VALUE", help=argparse.SUPPRESS)
    for flag in ("--boot-timer", "--show-log-origin"):
        made.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    return made


class _Refused(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(f"{self.option_strings[0]} is not supported")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; its exit status."""
    made = parser()
    options = made.parse_args(argv)
    if not 1 <= len(options.id) <= 64 or not all(
        each.isascii() and (each.isalnum() or each == "-") for each in options.id
    ):
        made.error("--id: 1 to 64 letters, digits and - are expected")
    if options.describe_snapshot:
        return _describe(options.describe_snapshot)
    if options.no_api and not options.config_file:
        made.error("--no-api needs --config-file")
    instance = Instance(
        options.id,
        ConsoleConfig("fd", 1),
        transport="pci" if options.enable_pci else "mmio",
        isolation="thread" if options.no_seccomp else "process",
    )
    api = Api(instance)
    try:
        if not options.no_seccomp:
            restrict_server()
        return _run(api, options)
    except (Fault, VmmError, OSError) as error:
        print(f"pyvmm-firecracker: {error}", file=sys.stderr)
        return BAD_ARGUMENT if isinstance(error, OSError) else BAD_CONFIGURATION
    finally:
        api.flush_metrics()
        api.close()


def _describe(path: str) -> int:
    from pyvmm_firecracker.snapshots import read

    try:
        read(path)
    except Fault as fault:
        print(f"pyvmm-firecracker: {fault.message}", file=sys.stderr)
        return 1
    print(f"v{SNAPSHOT_VERSION}")
    return 0


def _run(api: Api, options: argparse.Namespace) -> int:
    instance = api.instance
    instance.log.level, instance.log.show_level = options.level, options.show_level
    if options.log_path:
        instance.log.open(options.log_path)
    if options.metrics_path:
        instance.metrics.open(options.metrics_path, emit_id=False, properties={})
    limit = options.mmds_size_limit
    instance.mmds.limit = options.http_api_max_payload_size if limit is None else limit
    if options.metadata:
        instance.mmds.put(_read_json(options.metadata, "Metadata"))
    instance.log.write("Info", f"Running Firecracker v{VERSION}")
    got: list[int] = []

    def end(number: int, _: object) -> None:
        got.append(number)
        instance.ended.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    with contextlib.ExitStack() as stack:
        if not options.no_api:
            from pyvmm_firecracker.server import Server

            stack.enter_context(Server(api, options.api_sock, options.http_api_max_payload_size))
        if options.config_file:
            _configure(api, options.config_file)
        stack.enter_context(_terminal(instance))
        while not instance.ended.wait(INTERVAL_S):
            api.flush_metrics()
    if got:
        return 128 + got[0]
    return 1 if instance.failed else 0


def _read_json(path: str, what: str) -> Any:
    from pyvmm_firecracker.schema import parse_json

    try:
        with open(path, "rb") as file:
            return parse_json(file.read(1 << 20))
    except (OSError, ValueError, RecursionError) as error:
        raise Fault(f"{what} file {path}: {error}") from error


def _configure(api: Api, path: str) -> None:
    """Do what a configuration file describes, and start the guest.

    :raises Fault: it cannot be
    """
    sections = _read_json(path, "Configuration")
    if not isinstance(sections, dict):
        raise Fault(f"Configuration file {path}: a map is expected")
    for name, body in sorted(sections.items(), key=lambda each: each[0] == "mmds-config"):  # it names interfaces
        for section, each in _requests(name, body):
            api.handle("PUT", section, each)
    api.handle("PUT", "/actions", {"action_type": "InstanceStart"})


def _requests(name: str, body: Any) -> Iterator[tuple[str, Any]]:
    from pyvmm_firecracker.sections import NAMES

    if body is None:
        return
    if name not in NAMES:
        yield f"/{_FILES.get(name, name)}", body
        return
    if not isinstance(body, list) or not all(isinstance(each, dict) for each in body):
        raise Fault(f"Configuration: {name} is no list of maps")
    for each in body:
        yield f"/{name}/{each.get(NAMES[name], '')}", each


@contextlib.contextmanager
def _terminal(instance: Instance) -> Iterator[None]:
    """Type what comes from standard input on the guest's console; a terminal passes all keys on."""
    restore = None
    with contextlib.suppress(OSError):
        if os.isatty(0):
            import termios
            import tty

            restore = termios.tcgetattr(0)
            tty.setraw(0)
    threading.Thread(target=_type, args=(instance,), name="stdin", daemon=True).start()
    try:
        yield
    finally:
        if restore is not None:
            import termios

            termios.tcsetattr(0, termios.TCSANOW, restore)


def _type(instance: Instance) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(0, 4096):
            while data and not instance.ended.is_set():
                taken = instance.console_input(data)
                data = data[taken:]
                if not taken:
                    instance.ended.wait(0.05)  # the guest reads when it wants to


if __name__ == "__main__":
    sys.exit(main())
