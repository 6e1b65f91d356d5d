"""Which memory copies of a saved machine touch first: a file beside its snapshot, with which they have that at once."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyvmm_kata.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKING_SET = "working-set"
"""Its name, which is pyvmm's."""


def is_known(machine: str) -> bool:
    """Whether it is known which memory copies of the machine in that folder touch first."""
    return os.path.exists(os.path.join(machine, WORKING_SET))


@contextmanager
def new(machine: str) -> Iterator[int]:
    """A file to fill: at the end it is the working set of the machine in that folder, in one step.

    :raises HostError: it cannot be written
    """
    path = os.path.join(machine, WORKING_SET)
    new = f"{path}.{os.getpid()}-{os.urandom(4).hex()}"
    try:
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            yield fd
            os.rename(new, path)
        except BaseException:
            os.unlink(new)
            raise
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", code="checkpoint-place", errno=error.errno or 0) from error
