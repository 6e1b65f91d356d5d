"""virtio-vsock: sockets between host and guest (virtio 1.2, 5.10)."""
