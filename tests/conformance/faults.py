"""Cases that our runtime fails today although the references pass them: faults, to be mended.

The tests do not stop for them; `make conformance` counts them as failures, and says which are mended.
"""

FAULTS = frozenset(
    (
        "config-linux/cgroups/unified",
        "config-linux/cgroups/unified-unknown",
        "config-linux/namespaces/duplicate",
        "config-linux/namespaces/hostname-without-uts",
        "config-linux/namespaces/network-two-interfaces",
        "config-linux/namespaces/unknown",
        "config-linux/sysctl/slash",
        "config-linux/sysctl/unknown",
        "config-linux/user-namespace/mappings",
        "config-linux/user-namespace/owner",
        "config-linux/user-namespace/root-inside",
        "config/linux/devices-fifo",
        "config/linux/devices-file-mode",
        "config/linux/devices-owner",
        "config/linux/devices-type",
        "config/linux/resources-devices-access",
        "config/linux/resources-devices-allow",
        "config/linux/resources-devices-deny",
        "config/mounts/propagation-private",
        "config/mounts/writes-beside",
        "config/mounts/writes-beside-host",
        "config/types-null",
        "config/user/umask",
    )
)
