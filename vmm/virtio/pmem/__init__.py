"""virtio-pmem: an image as memory (virtio 1.2, 5.19)."""
