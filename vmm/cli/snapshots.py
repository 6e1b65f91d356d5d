"""``pyvmm snapshots``: look at saved machines."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from vmm.saving.manifest import Device, Manifest

PROG = "pyvmm snapshots"
DESCRIPTION = "Inspect or verify saved machines, or make a diff independent of its base."
EPILOG = """\
    inspect  print what was saved, and when
    verify   read all of it and of its bases, and compare checksums
    merge    compare checksums, and copy the memory of its bases into a diff, which then needs no base

example:
  pyvmm snapshots verify warm
"""
ACTIONS = ("inspect", "verify", "merge")


def parser() -> argparse.ArgumentParser:
    """The parser, for help, completion and the command line."""
    import argparse

    made = argparse.ArgumentParser(
        prog=PROG, description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("action", choices=ACTIONS, metavar="inspect|verify|merge", help="what to do")
    made.add_argument("directory", metavar="DIR", help="the snapshot").complete = "directory"  # type: ignore[attr-defined]
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    values = parser().parse_args(argv)
    from vmm.saving import verify as whole
    from vmm.saving.manifest import layers

    if values.action == "inspect":
        for folder, manifest in layers(values.directory):
            sys.stdout.write(describe(folder, manifest))
    elif values.action == "verify":
        whole.verify_snapshot(values.directory)
        sys.stdout.write(f"{values.directory}: whole\n")
    else:
        whole.merge(values.directory)
        sys.stdout.write(f"{values.directory}: needs no base any more\n")
    return 0


def _device(device: Device) -> str:
    from vmm.saveable import Stateless

    return "one without state" if device.kind == Stateless.KIND else f"{device.kind} (version {device.version})"


def describe(folder: str, manifest: Manifest) -> str:
    """A paragraph about a snapshot."""
    from vmm.saving.bases import diffs_of

    rows = [
        ("taken", f"{manifest.taken} by pyvmm {manifest.pyvmm or '(unknown)'} on Linux {manifest.host_kernel}"),
        ("processor", f"{manifest.cpu.vendor} {manifest.cpu.model}"),
        ("kernel", manifest.kernel.path),
        ("vCPUs", str(manifest.config.get("cpus", "?"))),
        ("memory", f"{manifest.memory_size >> 20} MiB, of which {manifest.memory_bytes >> 20} are kept here"),
        ("devices", ", ".join(map(_device, manifest.devices)) or "none"),
        *(("disk", f"{each.image.path}" + ("" if each.file else ", read only, not kept")) for each in manifest.disks),
    ]
    if manifest.base:
        rows.append(("diff of", os.path.normpath(os.path.join(folder, manifest.base))))
    rows += [("needed by", place) for place in diffs_of(folder)]
    return f"{folder}:\n" + "".join(f"  {name:<11}{text}\n" for name, text in rows)
