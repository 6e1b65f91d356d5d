"""Help for tests of other projects that want a virtual machine: :mod:`vmm.testing.plugin`, for pytest."""
