"""The requests of the API, and what each calls."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from pyvmm_firecracker import VERSION
from pyvmm_firecracker.fault import Fault
from pyvmm_firecracker.instance import Instance
from pyvmm_firecracker.schema import ANY, BODIES, OPTIONAL, check
from pyvmm_firecracker.sections import NAMES
from vmm import VmmError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Body = dict[str, Any]
    Answer = dict[str, Any] | None
    Handler = Callable[..., Answer]


class Api:
    """Serves an instance, one request at a time.  Any thread."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._lock = threading.Lock()

    def handle(self, method: str, path: str, body: object) -> Answer:
        """A request; the object to answer with, or None.

        :param body: None: there is none
        :raises Fault: it cannot be served
        """
        section, _, name = path.lstrip("/").partition("/")
        with self._lock:
            try:
                answer = self._route(method, section, name, body)
            except Fault as error:
                self._note(method, section, error)
                raise
            except VmmError as error:
                refused = Fault(f"{error}" + (f" ({error.hint})" if error.hint else ""))
                self._note(method, section, refused)
                raise refused from error
            self._note(method, section, None)
            return answer

    def _note(self, method: str, section: str, fault: Fault | None) -> None:
        if section in _SECTIONS and method in _METHODS:  # clients can send any number of others
            self.instance.metrics.count(method, section, failed=fault is not None)
        level, what = ("Error", fault.message) if fault else ("Info", "done")
        self.instance.log.write(level, f"The API server received a {method:.20} request on /{section:.60}: {what}")

    def _route(self, method: str, section: str, name: str, body: object) -> Answer:
        fixed = section if section in NAMES or section == "vsock" else f"{section}/{name}".rstrip("/")
        handler = ROUTES.get(f"{method} {fixed}")
        if handler is None:
            raise Fault(f"Invalid request method and/or path: {method:.20} /{fixed:.120}.")
        if method in ("GET", "DELETE"):
            if body is not None:
                raise Fault(f"{method} request cannot have a body.")
            return handler(self.instance, name) if section in NAMES else handler(self.instance)
        if body is None and f"{method} {fixed}" in OPTIONAL:
            body = {}
        if body is None:
            raise Fault(f"Empty {method} request.")
        if f"{method} {fixed}" in ANY:
            return handler(self.instance, body)
        given = check(BODIES[f"{method} {fixed}"], body)
        if section in NAMES:
            return self._named(handler, section, name, given)
        return handler(self.instance, given)

    def _named(self, handler: Handler, section: str, name: str, body: Body) -> Answer:
        if not name or not all(letter.isalnum() or letter in "_-" for letter in name):
            raise Fault(f"Invalid resource ID `{name:.60}`: letters, digits, `_` and `-` are expected.")
        if body[NAMES[section]] != name:
            raise Fault(
                f"The id from the path [{name:.60}] does not match the id from the body [{body[NAMES[section]]:.60}]!"
            )
        return handler(self.instance, section, name, body)

    def flush_metrics(self) -> None:
        """Write a line of metrics, if there is a file for them."""
        with self._lock, contextlib.suppress(Fault):
            self.instance.flush_metrics()

    def close(self) -> None:
        """End the machine, after the request that is being served."""
        with self._lock:
            self.instance.close()


def _one(section: str) -> Handler:
    return lambda instance, body: instance.put_section(section, body)


ROUTES: dict[str, Handler] = {
    "GET ": Instance.get_info,
    "GET version": lambda _: {"firecracker_version": VERSION},
    "GET vm/config": Instance.get_config,
    "GET machine-config": lambda instance: instance.sections["machine-config"],
    "GET balloon": Instance.get_balloon,
    "GET hotplug/memory": Instance.get_hotplug,
    "PUT actions": Instance.put_action,
    "PUT boot-source": Instance.put_boot_source,
    "PUT machine-config": Instance.put_machine,
    "PATCH machine-config": Instance.patch_machine,
    **{f"PUT {kind}": Instance.put_device for kind in NAMES},
    **{f"DELETE {kind}": lambda instance, name, kind=kind: instance.delete_device(kind, name) for kind in NAMES},
    "PATCH drives": Instance.patch_drive,
    "PATCH network-interfaces": Instance.patch_net,
    "PUT vsock": _one("vsock"),
    "PATCH pmem": Instance.patch_pmem,
    "PUT cpu-config": _one("cpu-config"),
    "PUT balloon": _one("balloon"),
    "GET balloon/statistics": lambda instance: instance.balloon().statistics(),
    "PATCH balloon/statistics": lambda instance, body: instance.balloon().set_interval(**body),
    "PATCH balloon/hinting/start": lambda instance, body: instance.balloon().start_hinting(body),
    "PATCH balloon/hinting/stop": lambda instance, _: instance.balloon().stop_hinting(),
    "GET balloon/hinting/status": lambda instance: instance.balloon().hinting(),
    "PUT entropy": _one("entropy"),
    "PUT hotplug/memory": _one("memory-hotplug"),
    "PATCH balloon": lambda instance, body: instance.balloon().resize(body["amount_mib"]),
    "PATCH hotplug/memory": Instance.patch_hotplug,
    "PUT serial": Instance.put_serial,
    "GET mmds": lambda instance: instance.mmds.get(),
    "PUT mmds": lambda instance, body: instance.mmds.put(body),
    "PATCH mmds": lambda instance, body: instance.mmds.patch(body),
    "PUT mmds/config": Instance.put_mmds,
    "PUT logger": Instance.put_logger,
    "PUT metrics": Instance.put_metrics,
    "PATCH vm": Instance.patch_vm,
    "PUT snapshot/create": Instance.create_snapshot,
    "PUT snapshot/load": Instance.load_snapshot,
}
"""By method and path, without the names of devices."""
_METHODS = {key.partition(" ")[0] for key in ROUTES}
_SECTIONS = {key.partition(" ")[2].partition("/")[0] for key in ROUTES}
