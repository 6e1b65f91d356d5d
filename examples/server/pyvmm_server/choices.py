"""What a client has chosen for the machine of a new sandbox, besides its template."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyvmm_sandbox import Network, Secret


@dataclass(frozen=True)
class Choices:
    """
    :ivar rules: of its network; None: there are none
    :ivar secrets: that its requests get
    :ivar shares: folders of this host that it has, as ``DIR:PATH``
    """

    rules: Network | None = None
    secrets: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    shares: Sequence[str] = ()

    @property
    def need_new_machine(self) -> str:
        """What a machine that was saved with its memory cannot get any more; empty: nothing."""
        return "network: rules" if self.rules is not None else "volumeMounts" if self.shares else ""


NOTHING = Choices()
