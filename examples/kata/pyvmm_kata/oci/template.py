"""``pyvmm-oci template build|list|remove``: booted machines, of which those of containers are clones."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING

import vmm
from pyvmm_kata import privileges
from pyvmm_kata.bundle import settings
from pyvmm_kata.bundle.bundle import Bundle
from pyvmm_kata.bundle.default_spec import default_spec
from pyvmm_kata.bundle.sizes import parse_size
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host import mounts
from pyvmm_kata.oci.options import FLAG, NUMBER, VALUE, parse
from pyvmm_kata.pod import machine_source, network, templates, virtual_machine
from pyvmm_kata.pod.agent_client import AgentClient
from pyvmm_kata.pod.guest_kinds import kind_named
from pyvmm_kata.pod.sandbox import Sandbox
from pyvmm_kata.pod.sandbox_config import SandboxConfig
from pyvmm_kata.pod.stdio import Stdio

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyvmm_kata.oci.context import Context
    from vmm import AnyMachine

OPTIONS = {
    "memory": VALUE,
    "vcpus": NUMBER,
    "nets": VALUE,
    "pci": FLAG,
    "kind": VALUE,
    "background": FLAG,
    "cgroup": VALUE,
}
START_S = 120.0
USAGE = "template build [--memory SIZE] [--vcpus N] [--nets N] [--pci], template list, template remove [NAME]..."


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    action, *rest = arguments or ("",)
    if action == "build":
        return _build(context, rest)
    _, names = parse(rest, {}, {}, f"template {action}")
    if action == "remove":
        return _remove(names)
    if action != "list" or names:
        raise ConfigError(f"template {' '.join(arguments)}".rstrip() + ": no such thing", code="oci-usage", hint=USAGE)
    for name in templates.names():
        try:
            templates.find(name, touch=False)
            words = "good"
        except HostError as error:
            words = f"not used: {error}"
        sys.stdout.write(f"{name}  {templates.size_of(name) >> 20:4} MiB  {words}\n")
    return 0


def _build(context: Context, arguments: Sequence[str]) -> int:
    options, rest = parse(arguments, OPTIONS, {}, "template build")
    if rest:
        raise ConfigError(f"template build: {rest[0]!r} is one argument too many", code="oci-usage", hint=USAGE)
    if options["background"]:
        templates.promote_later()
        templates.become_idle(options["cgroup"])
    kind = templates.Kind.parse(options["kind"]) if options["kind"] else _kind(context, options)
    key = templates.build(kind, _boot_and_save, wait=not options["background"])
    if not options["background"]:
        sys.stdout.write(f"{key}\n")
    return 0


def _kind(context: Context, options: dict[str, Any]) -> templates.Kind:
    """The settings of a container without limits, except for the options."""
    chosen = settings.load(context.config)
    if not kind_named(chosen.guest).can.templates:
        raise ConfigError(
            f"template build: there are no templates of guests of the kind {chosen.guest}",
            code="guest-kind",
            hint="they boot as fast as a clone starts",
        )
    if options["memory"]:
        chosen = chosen._replace(memory=parse_size(options["memory"], "template build: --memory", "oci-usage"))
    if options["vcpus"]:
        chosen = chosen._replace(vcpus=options["vcpus"])
    memory, vcpus = chosen.size({})
    nets = options["nets"] or "1"
    if not (nets.isascii() and nets.isdigit() and len(nets) < 3 and int(nets) <= templates.MAX_NETS):
        raise ConfigError(
            f"template build: --nets {nets!r:.20} is not 0 to {templates.MAX_NETS}", code="oci-usage", hint=USAGE
        )
    return machine_source.kind_by(chosen, memory, vcpus, int(nets), more_disks=options["pci"])


def _remove(names: Sequence[str]) -> int:
    """The named ones, or all."""
    there = templates.names()
    for name in names:
        if name not in there:
            raise ConfigError(f"template remove: there is no template {name!r:.60}", code="oci-usage")
    for name in names or there:
        templates.forget(f"{templates.folder()}/{name}")
    return 0


def _boot_and_save(kind: templates.Kind, place: str) -> str:
    """Boot one, with nothing of a container, and save it; returns the folder."""
    mounts.enter_namespace()
    if kind.nets:
        network.enter("")
    privileges.restrict()
    os.mkdir(f"{place}/share", 0o755)
    made = f"{place}/made"
    nets, keepers = network.blank([templates.mac_of(number) for number in range(kind.nets)])
    keepers.append(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
    # Through a descriptor, since a unix socket's path must be short, and this one may not be
    keepers.append(os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    machine: AnyMachine | None = None
    try:
        machine = machine_source.machine_of_template(
            kind, f"/proc/self/fd/{keepers[-1]}", f"{place}/share", nets, console=keepers[-2]
        )
        machine.start(confined=True)
        agent = AgentClient(virtual_machine.connect_to(machine, "template", START_S), "template")
        agent.check()
        agent.close()
        time.sleep(0.1)  # what the guest has begun for this it may end
        machine.snapshot(made)
    finally:
        if machine is not None:
            machine.close()
        for fd in keepers:
            os.close(fd)
    vmm.verify_snapshot(made)
    _rehearse(kind, place, made)
    return made


def _rehearse(kind: templates.Kind, place: str, made: str) -> None:
    """Run a container with a program of ours in a clone. The memory that it touches is recorded in the template, and is
    prefilled in clones. Users' containers are not recorded, since they must leave no trace there.
    """
    folder, root = f"{place}/sandbox", f"{place}/bundle/rootfs"
    os.mkdir(folder, 0o700)
    for name in ("dev", "proc", "sys"):
        os.makedirs(f"{root}/{name}")
    # It needs no library, and ends at once
    shutil.copy(os.path.join(os.path.dirname(os.path.dirname(__file__)), "pyvmm-oci-client"), f"{root}/program")
    nets, keepers = network.blank([templates.mac_of(number) for number in range(kind.nets)])
    config = SandboxConfig(
        "rehearsal",
        folder,
        kind.kernel,
        kind.image,
        kind.memory,
        kind.vcpus,
        hostname="rehearsal",
        network=network.Network((), nets, keepers),
        guest=kind.guest,
    )
    sandbox = Sandbox(config, lambda config, folder, shared: virtual_machine.PyvmmVm(config, folder, shared, made))
    try:
        sandbox.start()
        bundle = Bundle(f"{place}/bundle", default_spec(["/program"], terminal=False))
        container = sandbox.create_container("rehearsal", bundle, Stdio())
        container.start()
        container.wait(START_S)
    finally:
        sandbox.stop()
