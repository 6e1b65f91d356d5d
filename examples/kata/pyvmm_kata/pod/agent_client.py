"""The agent in the guest, as typed calls.

The guest controls every answer, so each is checked against the request before it is used. Calls have a deadline, and
the error names the call that was not answered. Calls that wait for an event in the guest have none;
:meth:`AgentClient.check` checks whether the agent still runs.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from pyvmm_kata.errors import AgentError, AgentGone, AgentTimeout, GuestError
from pyvmm_kata.protocol import protobuf, ttrpc
from pyvmm_kata.protocol.control import MOUNT_S

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pyvmm_kata.bundle.guest_config import GuestConfig
    from pyvmm_kata.bundle.policy import Policy
    from pyvmm_kata.bundle.storage import Storage

AGENT, HEALTH = "grpc.AgentService", "grpc.Health"
CALL_S = 30.0
CREATE_S = 60.0
"""Making a container mounts and runs programs."""
REASON_S = 1.0
MAX_PIDS = 1 << 16
LISTING_S = 3.0
MAX_LISTING = 1 << 20
_AROUND = 1024
"""Bytes of an answer that are not the requested data."""
SERVING = 1


class AgentClient:
    """A connection to the agent of one sandbox.  Its methods can be called from any thread, and each of them raises:

    :raises AgentTimeout: no answer in time
    :raises AgentGone: the connection is closed
    :raises AgentError: the agent refuses
    :raises GuestError: the answer is invalid
    """

    def __init__(self, sock: socket.socket, sandbox: str) -> None:
        self._sandbox = sandbox
        self._reason = ""
        self._told = threading.Event()
        self._client = ttrpc.Client(sock, f"the agent of sandbox {sandbox}")

    def close(self, reason: str = "") -> None:
        """End the connection: calls that wait raise AgentGone with *reason* as its message."""
        self._reason = self._reason or reason
        self._told.set()
        self._client.close()

    def _call(
        self,
        method: str,
        request: Any,
        timeout: float | None = CALL_S,
        service: str = AGENT,
        room: int = ttrpc.ANSWER_DATA,
    ) -> Any:
        try:
            return self._client.call(service, method, request, timeout, room)
        except ttrpc.CallTimeout as error:
            raise AgentTimeout(error.message, hint="the guest hangs; delete --force ends it") from error
        except ttrpc.ConnectionLost as error:
            self._told.wait(REASON_S)  # the thread that waits for the machine's end knows the reason
            raise AgentGone(self._reason or error.message) from error
        except ttrpc.RpcError as error:
            raise AgentError(f"{method}: {error.message}", status=error.code) from error

    def _do(self, method: str, timeout: float | None = CALL_S, **fields: Any) -> None:
        self._call(method, protobuf.message(f"grpc.{method}Request")(**fields), timeout)

    # -- the sandbox -------------------------------------------------------------------------------------------------

    def check(self, timeout: float = CALL_S) -> None:
        """Ask whether it serves.

        :raises GuestError: it reports that it does not serve
        """
        answer = self._call("Check", protobuf.message("grpc.CheckRequest")(), timeout, HEALTH)
        if answer.status != SERVING:
            raise GuestError(
                f"the agent of sandbox {self._sandbox} reports that it does not serve", code="agent-health"
            )

    def create_sandbox(self, sandbox_id: str, hostname: str, storages: Sequence[Storage], *, shared_pids: bool) -> None:
        """The first call: the agent mounts what all containers use."""
        self._do(
            "CreateSandbox",
            CREATE_S,
            sandbox_id=sandbox_id,
            hostname=hostname,
            storages=[_storage(storage) for storage in storages],
            sandbox_pidns=shared_pids,
        )

    def set_policy(self, policy: Policy) -> None:
        """Before :meth:`create_sandbox`: the requests that it serves from now on."""
        self._do("SetPolicy", policy=policy.text, name=policy.name)

    def destroy_sandbox(self, timeout: float = CALL_S) -> None:
        """The last call: the agent unmounts file systems, which writes dirty data back, and powers off."""
        self._do("DestroySandbox", timeout)

    def set_time(self, seconds: float) -> None:
        """Set the guest's clock, in seconds since 1970."""
        self._do("SetGuestDateTime", Sec=int(seconds), Usec=int(seconds % 1 * 1e6))

    def reseed(self, seed: bytes) -> None:
        """Make the guest's random numbers differ from those of machines that were identical until now.

        :param seed: 1 to 512 bytes
        """
        self._do("ReseedRandomDev", data=seed)

    def online_cpus(self, count: int) -> None:
        """Set the guest's CPUs in use to the first *count*."""
        self._do("OnlineCPUMem", cpus=count)

    def get_oom_event(self) -> str:
        """Wait until the guest's kernel has killed a process for lack of memory; returns the container's id."""
        answer = self._call("GetOOMEvent", protobuf.message("grpc.GetOOMEventRequest")(), None)
        return str(answer.container_id)

    # -- containers --------------------------------------------------------------------------------------------------

    def create_container(self, container_id: str, config: GuestConfig, storages: Sequence[Storage] = ()) -> None:
        """Make a container, not yet started."""
        self._do(
            "CreateContainer",
            CREATE_S + MOUNT_S * config.mounts,
            container_id=container_id,
            exec_id=container_id,
            OCI=config.message,
            config=config.text,
            mark=config.mark,
            storages=[_storage(storage) for storage in storages],
        )

    def start_container(self, container_id: str) -> None:
        """Run the first process."""
        self._do("StartContainer", CREATE_S, container_id=container_id)

    def remove_container(self, container_id: str, timeout: int) -> None:
        """Kill its processes and remove it.

        :param timeout: seconds that the agent may take
        """
        request = protobuf.message("grpc.RemoveContainerRequest")(container_id=container_id, timeout=timeout)
        self._call("RemoveContainer", request, timeout + CALL_S)

    def pause_container(self, container_id: str) -> None:
        """Freeze it."""
        self._do("PauseContainer", container_id=container_id)

    def resume_container(self, container_id: str) -> None:
        """Thaw it."""
        self._do("ResumeContainer", container_id=container_id)

    def update_container(self, container_id: str, resources: Any, config: str) -> None:
        """Change limits.

        :param resources: a ``grpc.LinuxResources``; or None
        :param config: otherwise ``linux.resources`` of a config.json, as text
        """
        self._do("UpdateContainer", container_id=container_id, resources=resources, config=config)

    def stats_container(self, container_id: str, timeout: float = CALL_S) -> Any:
        """A ``grpc.StatsContainerResponse``."""
        request = protobuf.message("grpc.StatsContainerRequest")(container_id=container_id)
        return self._call("StatsContainer", request, timeout)

    # -- processes ---------------------------------------------------------------------------------------------------

    def exec_process(self, container_id: str, exec_id: str, process: Any, config: str, window: str = "") -> None:
        """Run one more process.

        :param process: a ``grpc.Process`` with its terminal
        :param config: the ``process`` of a config.json, as text
        :param window: the path of a file of the share that becomes its descriptor 3; empty: none
        :raises AgentError: its code is ``agent-full`` where the guest has no room for another process
        """
        try:
            self._do(
                "ExecProcess",
                CREATE_S,
                container_id=container_id,
                exec_id=exec_id,
                process=process,
                config=config,
                window=window,
            )
        except AgentError as error:
            if error.status != "RESOURCE_EXHAUSTED":
                raise
            hint = "wait until other processes of the container have ended"
            raise AgentError(error.message, status=error.status, code="agent-full", hint=hint) from error

    def signal_process(self, container_id: str, exec_id: str, signal: int) -> None:
        """Send a signal; to all processes of the container if *exec_id* is empty."""
        self._do("SignalProcess", container_id=container_id, exec_id=exec_id, signal=signal)

    def wait_process(self, container_id: str, exec_id: str) -> int:
        """Wait for its end; returns its status, 0 to 255, 128 + N for signal N."""
        request = protobuf.message("grpc.WaitProcessRequest")(container_id=container_id, exec_id=exec_id)
        status = self._call("WaitProcess", request, None).status
        if not 0 <= status <= 255:
            raise GuestError(f"the agent reports a process that ended with status {status}", code="agent-answer")
        return int(status)

    def list_pids(self, container_id: str) -> list[int]:
        """The pids of a container's processes, in the guest's namespace."""
        request = protobuf.message("grpc.ListProcessesRequest")(container_id=container_id, format="json")
        text = self._call("ListProcesses", request, room=MAX_LISTING + _AROUND).process_list
        try:
            pids = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise GuestError(f"the agent's list of processes is no JSON: {error}", code="agent-answer") from error
        if not isinstance(pids, list) or len(pids) > MAX_PIDS or not all(type(pid) is int for pid in pids):
            raise GuestError("the agent's list of processes is not a list of numbers", code="agent-answer")
        return pids

    def list_files(self, container_id: str) -> bytes:
        """Files of /proc in the guest for the processes of a container, in the form of linux-guest/agent/container.h,
        which :mod:`pyvmm_kata.host.procfs` reads.

        Its deadline is short, since a process of the host waits in read(2).
        """
        return self._listing(container_id, "files")

    def list_stacks(self, container_id: str) -> bytes:
        """What the tasks of a container do in the Sentry, which :mod:`pyvmm_sentry.stacks` reads."""
        return self._listing(container_id, "stacks")

    def _listing(self, container_id: str, kind: str) -> bytes:
        request = protobuf.message("grpc.ListProcessesRequest")(container_id=container_id, format=kind)
        listing = self._call("ListProcesses", request, LISTING_S, room=MAX_LISTING + _AROUND).process_list
        if len(listing) > MAX_LISTING:
            raise GuestError(f"the agent's list of processes has {len(listing)} bytes", code="agent-answer")
        return bytes(listing)

    def write_stdin(self, container_id: str, exec_id: str, data: bytes) -> int:
        """Write to its stdin, and wait while there is no room; returns how many bytes were accepted, at least one."""
        request = protobuf.message("grpc.WriteStreamRequest")(container_id=container_id, exec_id=exec_id, data=data)
        taken = self._call("WriteStdin", request, None).len
        if not 0 < taken <= len(data):
            raise GuestError(f"the agent reports that it accepted {taken} of {len(data)} bytes", code="agent-answer")
        return int(taken)

    def read_stdout(self, container_id: str, exec_id: str, length: int) -> bytes:
        """Wait for output; empty, or AgentError, at its end."""
        return self._read("ReadStdout", container_id, exec_id, length)

    def read_stderr(self, container_id: str, exec_id: str, length: int) -> bytes:
        """As :meth:`read_stdout`."""
        return self._read("ReadStderr", container_id, exec_id, length)

    def _read(self, method: str, container_id: str, exec_id: str, length: int) -> bytes:
        request = protobuf.message("grpc.ReadStreamRequest")(container_id=container_id, exec_id=exec_id, len=length)
        data = self._call(method, request, None, room=length + _AROUND).data
        if len(data) > length:
            raise GuestError(f"{method}: the agent sent {len(data)} bytes, asked for {length}", code="agent-answer")
        return bytes(data)

    def close_stdin(self, container_id: str, exec_id: str) -> None:
        """Close its stdin."""
        self._do("CloseStdin", container_id=container_id, exec_id=exec_id)

    def tty_win_resize(self, container_id: str, exec_id: str, rows: int, columns: int) -> None:
        """Set the size of its terminal, in characters."""
        self._do("TtyWinResize", container_id=container_id, exec_id=exec_id, row=rows, column=columns)

    # -- network -----------------------------------------------------------------------------------------------------

    def update_interface(self, interface: Any) -> None:
        """Set name, addresses and MTU of the interface with this MAC address.

        :param interface: a ``types.Interface``
        """
        request = protobuf.message("grpc.UpdateInterfaceRequest")(interface=interface)
        self._call("UpdateInterface", request)

    def update_routes(self, routes: Sequence[Any]) -> None:
        """Set the routes.

        :param routes: each a ``types.Route``
        """
        request = protobuf.message("grpc.UpdateRoutesRequest")(routes=protobuf.message("grpc.Routes")(Routes=routes))
        self._call("UpdateRoutes", request)

    def add_neighbors(self, neighbors: Sequence[Any]) -> None:
        """Add to the table of neighbours.

        :param neighbors: each a ``types.ARPNeighbor``
        """
        known = protobuf.message("grpc.ARPNeighbors")(ARPNeighbors=neighbors)
        self._do("AddARPNeighbors", neighbors=known)


def _storage(storage: Storage) -> Any:
    return protobuf.message("grpc.Storage")(
        driver=storage.driver,
        source=storage.source,
        fstype=storage.fstype,
        mount_point=storage.mount_point,
        options=storage.options,
        driver_options=storage.driver_options,
    )
