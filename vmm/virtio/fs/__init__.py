"""virtio-fs: directories of the host (virtio 1.2, 5.11)."""
