"""Machines that run their programs on this host, for servers and for nodes of a cluster."""

from __future__ import annotations

from pyvmm_kata.image_store import store as image_store
from pyvmm_kata.pod import sandbox as machines
from pyvmm_sandbox import guest, isolations
from pyvmm_server import users
from tests.kata import fake_relay
from tests.kata.fake_agent import boot_fake


def install(place: str) -> None:
    """Use them in this process.

    :param place: the folder of the test's server
    """
    machines.boot_vm = boot_fake
    fake_relay.install()
    guest.PATH = guest.program()
    isolations.choose = lambda wanted: "vm"  # these machines need no KVM
    image_store.SYSTEM_STORE = f"{place}/images"
    users.HOME = f"{place}/home"
    users.PASSWD = f"{place}/passwd"
