"""The form of a snapshot on disk: a directory with a manifest, the state of CPUs and devices, and RAM."""
