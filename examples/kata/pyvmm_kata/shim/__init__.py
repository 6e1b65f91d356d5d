"""``containerd-shim-pyvmm-v2``: the program that containerd starts for each pod (runtime name
``io.containerd.pyvmm.v2``).

main and bootstrap are the command that containerd calls, tasks is the service that it then uses, pod and task are the
objects of that service; events are sent to containerd. The contract: containerd, core/runtime/v2/README.md.
"""
