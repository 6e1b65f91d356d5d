"""Paused sandboxes of a cluster whose memory is on disk (``--suspend-paused``).  They continue on any node.

A sandbox is saved before it ends, and the record names what was saved; each pause has another name, so that no older
state is ever continued.  While the record names no node, the sandbox is on disk alone, at its holder.

When the holder is lost, and no other node has what was saved, the sandbox is lost.  It is paused again if a node brings
that back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from pyvmm_server import metrics, store
from pyvmm_server.choices import NOTHING
from pyvmm_server.errors import ClientError, Unreachable, gone
from pyvmm_server.templates import Source

if TYPE_CHECKING:
    from pyvmm_server.cluster import Cluster
    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.store import Record

log = logging.getLogger("pyvmm_server")
_SAVE_S = 300.0
_LOOK_S = 2.0


async def suspend(cluster: Cluster, sandboxes: Sandboxes, sandbox_id: str, node: str) -> bool:
    """Save a sandbox and end it; False: it cannot be saved, and goes on.

    :raises Unreachable: its node does not answer
    """
    name = secrets.token_hex(10)
    sandboxes.store.change(sandbox_id, saved=name)
    try:
        await cluster.call(node, "suspend", sandbox_id, sandboxes.templates.folder(name), limit=_SAVE_S)
    except Unreachable:
        raise
    except ClientError as error:
        runs = await cluster.call(node, "is_running", sandbox_id)
        if runs or not await cluster.call(node, "has", sandboxes.templates.folder(name)):
            log.warning("paused in memory: %s", error, extra={"sandbox": sandbox_id})
            sandboxes.store.change(sandbox_id, saved="")
            await cluster.discard("", sandboxes.templates.folder(name))
            return False
        log.warning("saved, and not all of it was removed: %s", error, extra={"sandbox": sandbox_id})
    sandboxes.store.change(sandbox_id, node="", holder=node)
    return True


async def revive(cluster: Cluster, sandboxes: Sandboxes, record: Record) -> None:
    """Continue a sandbox that is on disk: on the node that has saved it, or on another one if that has no room.

    :raises ClientError: it cannot be continued, and stays on disk
    """
    folder = sandboxes.templates.folder(record.saved)
    holder = await cluster.holder(folder)
    if holder is None:
        sandboxes.store.change(record.id, holder="")  # the next rounds look for one
        raise ClientError(503, f"no node that answers has the saved memory of sandbox {record.id}")
    try:
        node = cluster.place(record.memory, holder)
    except ClientError:
        node = cluster.place(record.memory, "")
    source = Source(record.template, sandboxes.settings, template=folder, node=holder, memory=record.memory)
    sandboxes.store.change(record.id, node=node)
    try:
        await cluster.start(replace(record, node=node), source, NOTHING)
    except BaseException:
        # If the node has started it all the same, it ends it: the record is of none
        sandboxes.store.change(record.id, node="")
        raise
    await cluster.discard("", folder)
    now = sandboxes.store.get(record.id)
    if now is not None and now.node != node:
        raise Unreachable("it was lost while it resumed the sandbox")


async def settle(cluster: Cluster, sandboxes: Sandboxes, record: Record) -> None:
    """Of a sandbox that was being paused or resumed when the server or a node ended: undo what no client was told.

    :raises ClientError: its status is 502: it has ended
    """
    change, folder = sandboxes.store.change, sandboxes.templates.folder(record.saved)
    if record.node:
        runs = bool(await cluster.call(record.node, "is_running", record.id))
        # Its node answers, but a round may still have to find that out
        holder = record.node if await cluster.call(record.node, "has", folder) else await cluster.holder(folder)
        if runs and (record.state == store.RUNNING or holder is None):
            await cluster.call(record.node, "settle", record.id, record.state)
            change(record.id, saved="")
            await cluster.discard("", folder)
            return
        if holder is None:
            if not cluster.membership.is_settled:
                raise Unreachable("another one may have its memory")
            raise gone(record.id)
        if runs:
            await cluster.call(record.node, "remove", record.id)
        change(record.id, node="", holder=holder)
    if record.state == store.RUNNING:
        await revive(cluster, sandboxes, replace(record, node=""))
        change(record.id, saved="")


def missing(cluster: Cluster, sandboxes: Sandboxes) -> list[Record]:
    """Sandboxes on disk whose holder is lost or unknown, when it is known who else may have them."""
    places, membership = sandboxes.store.places, cluster.membership
    found = [each for each in places.holders() if membership.is_lost(each) or (not each and membership.is_settled)]
    return [record for holder in found for record in places.held(holder)]


async def look(cluster: Cluster, sandboxes: Sandboxes) -> None:
    """Find another holder of sandboxes that miss theirs, or report them lost."""
    nodes = list(cluster.membership.ready)
    answers = await asyncio.gather(
        *(cluster.call(node, "saved", limit=_LOOK_S) for node in nodes), return_exceptions=True
    )
    saved = {name: node for node, names in zip(nodes, answers, strict=True) for name in _names(names)}
    for record in missing(cluster, sandboxes):
        if record.saved in saved:
            sandboxes.store.change(record.id, holder=saved[record.saved])
            continue
        metrics.FAILURES.labels("lost").inc()
        log.warning("paused sandbox is lost with its node", extra={"sandbox": record.id, "node": record.holder})
        sandboxes.store.change(record.id, state=store.LOST, ends=None)
        sandboxes.forget(record.id)


def _names(answer: list[str] | BaseException) -> list[str]:
    """What a node has saved; nothing, if it does not answer: it is looked at again when it does."""
    if not isinstance(answer, ClientError | list):
        raise answer
    return answer if isinstance(answer, list) else []


def find_again(sandboxes: Sandboxes, node: str, saved: set[str]) -> None:
    """A node answers, for the first time or again: lost sandboxes that it has saved are paused."""
    for record in sandboxes.store.in_states(store.LOST):
        if record.is_on_disk and record.saved in saved:
            log.warning("lost sandbox is found again", extra={"sandbox": record.id, "node": node})
            sandboxes.store.change(record.id, state=store.PAUSED, holder=node)
