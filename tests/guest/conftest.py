"""The fixtures of the tests that boot guests: `boot` makes one as asked for, `vm` is one with the defaults.

The kernel and the root disk are what guest-kernel's recipes make; whatever a test does not power off is stopped at its
end, and the report of a test that failed shows the console of each of its guests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pytest

from tests.claims import Claims, file_is_of_host
from tests.filesystems import sparse_copy
from tests.guest.clones import Clone, MakeClone
from tests.guest.vmfixture import Guest, boot_guest
from tools import guest as recipes
from vmm import DiskConfig, MemoryConfig, NetConfig, ShareConfig, VirtioDevice, VsockConfig

if TYPE_CHECKING:
    from tests.guest.kata_podman import Podman

HERE = Path(__file__).parent
GUESTS = pytest.StashKey["list[Guest]"]()


class Boot(Protocol):
    """What the `boot` fixture is."""

    def __call__(
        self,
        *,
        rootfs: str | Path | DiskConfig | ShareConfig | Literal["fresh"] | None = "fresh",
        disks: Sequence[str | Path | DiskConfig] = (),
        shares: Sequence[ShareConfig] = (),
        initrd: str | None = None,
        cpus: int = 1,
        memory: str | MemoryConfig = "256M",
        cmdline: str = "",
        entry: str = "auto",
        devices: tuple[VirtioDevice, ...] = (),
        shell: bool = True,
        vsock: VsockConfig | None = None,
        transport: str = "mmio",
        nets: Sequence[NetConfig] = (),
        **more: Any,
    ) -> Guest: ...


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.guest)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How tests are dealt out to workers (``-n 2``): by file, since a file's tests share what is slow to make.

    Tests that look for leftovers of containers, or use the host's network, share one worker of a host, which they get
    first: together they take longest. Where several labs share the tests (PYVMM_TEST_CLAIMS, tools/run_tests.py) each
    has one worker, which takes the next file that no other lab has taken; the hostile one takes those that are for it
    alone (tests/claims.py).
    """
    from xdist.scheduler import LoadScopeScheduling

    claims = Claims.here()

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "host" if claims is None and file_is_of_host(file) else file

        def _assign_work_unit(self, node: Any) -> None:
            if "host" in self.workqueue:
                self.workqueue.move_to_end("host", last=False)
            while self.workqueue and claims is not None and not claims.take(next(iter(self.workqueue))):
                self.workqueue.popitem(last=False)
            if self.workqueue:
                super()._assign_work_unit(node)

    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Put the consoles into the report of a test that failed."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed and report.when in ("setup", "call"):
        guests: list[Guest] = item.stash.get(GUESTS, [])
        for number, guest in enumerate(guests):
            guest.drain()
            report.sections.append((f"console of guest {number}", guest.console or "(it printed nothing)"))
    return report  # type: ignore[return-value]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """podman, for a file's tests; files whose storage is special have one of their own."""
    from tests.guest.kata_podman import Podman

    made = Podman(tmp_path_factory.mktemp("podman"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def guest_kernel() -> str:
    """The path of the guest kernel."""
    return recipes.kernel()


@pytest.fixture(scope="session")
def guest_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root disk to copy from: in the lab, reading the cache's own costs seconds each time."""
    return sparse_copy(Path(recipes.rootfs()), tmp_path_factory.mktemp("disk") / "root.ext4")


@pytest.fixture
def fresh_disk(guest_disk: Path, tmp_path: Path) -> Path:
    """A root disk of the test's own."""
    return sparse_copy(guest_disk, tmp_path / "root.ext4")


@pytest.fixture
def boot(request: pytest.FixtureRequest, guest_kernel: str, guest_disk: Path, tmp_path: Path) -> Iterator[Boot]:
    """Boots guests: `boot(cpus=2, disks=[path])` returns one whose shell is ready.

    `rootfs="fresh"` is a copy of the root disk for this guest alone; None is for `initrd=` and for guests that need no
    root. `shell=False` returns at once, for guests that never get to a shell.
    """
    guests: list[Guest] = []
    request.node.stash[GUESTS] = guests

    def boot_one(
        *,
        rootfs: str | Path | DiskConfig | ShareConfig | Literal["fresh"] | None = "fresh",
        disks: Sequence[str | Path | DiskConfig] = (),
        shares: Sequence[ShareConfig] = (),
        initrd: str | None = None,
        cpus: int = 1,
        memory: str | MemoryConfig = "256M",
        cmdline: str = "",
        entry: str = "auto",
        devices: tuple[VirtioDevice, ...] = (),
        shell: bool = True,
        vsock: VsockConfig | None = None,
        transport: str = "mmio",
        nets: Sequence[NetConfig] = (),
        **more: Any,
    ) -> Guest:
        if rootfs == "fresh":
            rootfs = sparse_copy(guest_disk, tmp_path / f"root{len(guests)}.ext4")
        guest = boot_guest(
            guest_kernel,
            rootfs=rootfs,
            disks=disks,
            shares=shares,
            initrd=initrd,
            cpus=cpus,
            memory=memory,
            cmdline=cmdline,
            entry=entry,
            devices=devices,
            vsock=vsock,
            transport=transport,
            nets=nets,
            **more,
        )
        guests.append(guest)
        if shell:
            guest.start_shell()
        return guest

    yield boot_one
    for guest in guests:
        guest.close()


@pytest.fixture
def clone() -> Iterator[MakeClone]:
    made: list[Clone] = []

    def make(path: Path, like: Guest, **changes: Any) -> Clone:
        made.append(Clone(path, like, **changes))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def vm(boot: Boot) -> Guest:
    """A guest with one CPU, 256 MiB, a root disk of its own and its shell ready."""
    return boot()
