"""``containerd-shim-pyvmm-v2``: what containerd starts for each pod (runtime name ``io.containerd.pyvmm.v2``).

main and bootstrap are the command that containerd calls, tasks the service that it then speaks to, pod and task what
that service is about; events are what containerd is told. The contract: containerd, core/runtime/v2/README.md.
"""
