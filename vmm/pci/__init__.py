"""PCI as far as virtual devices need it: one bus behind an ECAM window, functions with capabilities, a BAR and MSI-X.

It knows neither KVM nor virtio: where interrupts go is a :class:`~vmm.pci.msix.Vectors` that the machine gives, what a
BAR holds is its function's affair.
"""
