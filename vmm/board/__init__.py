"""The mainboard of a machine: VM and vCPUs of KVM, slots of devices, the threads that run vCPUs, and how it boots."""
