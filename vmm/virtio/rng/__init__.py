"""virtio-rng: randomness for the guest (virtio 1.2, 5.4)."""
