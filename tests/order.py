"""Which files of tests start first: those that take longest.

Workers, and labs that share the tests, take file after file. One that takes minutes and starts last would keep one of
them busy while the others have nothing left.
"""

from __future__ import annotations

LONGEST = (
    *("kata/test_oci.py", "native/test_sanitizers.py", "sentry/test_share.py", "unit/test_machine.py"),
    *("unit/test_warm.py", "unit/virtio/test_fs_same.py", "kata/test_oci_commands.py", "sentry/test_kernel.py"),
    *("unit/test_lab.py", "hostile/test_jail_calls.py", "sentry/test_control.py", "unit/test_guest_kernel.py"),
    *("sentry/test_programs.py", "unit/test_documents.py", "kata/test_shim.py", "unit/virtio/test_balloon.py"),
    # In labs
    *("guest/test_kata_containerd.py", "guest/test_kata_conformance.py", "guest/test_kata_oci.py"),
    *("guest/test_snapshot.py", "guest/test_kata_rootless.py", "guest/test_sandbox.py", "guest/test_kata_volumes.py"),
    *("guest/test_net.py", "guest/test_library.py", "guest/test_memory.py", "guest/test_debian.py"),
    *("guest/test_kata_sockets.py", "guest/test_disk.py", "guest/test_kata_spec.py", "guest/test_sentry_containerd.py"),
    *("guest/test_kata_disk.py", "guest/test_kata_face.py", "guest/test_boot.py", "guest/test_kata_podman.py"),
    *("guest/test_vsock.py", "guest/test_kata_guide.py", "guest/test_integrity.py", "guest/test_snapshot_cycles.py"),
)
"""Below tests/, the longest first; all others take less."""
_RANKS = {f"tests/{file}": rank for rank, file in enumerate(LONGEST)}


def rank(test: str) -> int:
    """Where the file of a test, a pytest node's id, is in the order."""
    return _RANKS.get(test.partition("::")[0], len(_RANKS))
