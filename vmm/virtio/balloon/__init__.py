"""virtio-balloon: memory that goes back to the host (virtio 1.2, 5.5)."""
