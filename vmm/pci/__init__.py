"""PCI for virtual devices: one bus behind an ECAM window, functions with capabilities, a BAR and MSI-X.

It depends on neither KVM nor virtio: the machine provides a :class:`~vmm.pci.msix.Vectors` for interrupts, and a
function defines the content of its BAR.
"""
