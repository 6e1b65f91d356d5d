"""Containers, each pod in a virtual machine of its own: an OCI runtime and a containerd shim on pyvmm's public API.

:class:`pyvmm_kata.pod.sandbox.Sandbox` is a virtual machine with its containers; ``pyvmm-oci``, ``pyvmm run`` and
``containerd-shim-pyvmm-v2`` are front ends of it.
"""
