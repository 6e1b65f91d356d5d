"""Help for tests of other projects that use virtual machines: :mod:`vmm.testing.plugin`, for pytest."""
