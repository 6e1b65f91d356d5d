"""virtio-console: the guest's hvc0 (virtio 1.2, 5.3)."""
