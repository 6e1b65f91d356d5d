"""Virtio: the ring, the transports, and one file per device (OASIS virtio 1.2)."""
