"""virtio-net: networks (virtio 1.2, 5.1)."""
