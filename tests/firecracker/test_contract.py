"""The interface as its own description has it, tried by schemathesis: valid and invalid requests of all kinds."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from requests.adapters import HTTPAdapter
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from urllib3.connectionpool import HTTPConnectionPool

from pyvmm_firecracker.contract import description
from tests import tiny
from tests.firecracker.program import PATIENCE, Connection, Program

REJECTED = ["400", "413"]
"""Statuses of refused requests; a body can be too large."""
CONFIG = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REJECTED}}})
SCHEMA = schemathesis.openapi.from_dict(description(), config=CONFIG)
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance, negative_data_rejection]
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
SHORT = settings(max_examples=6, deadline=None, suppress_health_check=QUIET, database=None)
LONG = settings(SHORT, max_examples=400)
Case = schemathesis.Case[Any]


class _Socket(HTTPAdapter):
    """Sends requests to a unix socket, whatever host they name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._pool = HTTPConnectionPool("localhost", timeout=PATIENCE)
        self._pool.ConnectionCls = _connections(path)

    def get_connection_with_tls_context(self, *_: object, **__: object) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()


def _connections(path: Path) -> type[Any]:
    from urllib3.connection import HTTPConnection

    class Made(HTTPConnection):
        def _new_conn(self) -> Any:
            connection = Connection(path)
            connection.connect()
            return connection.sock

    return Made


class Client:
    """A program, and a session of requests to it."""

    def __init__(self, *flags: str) -> None:
        self.folder = Path(tempfile.mkdtemp())  # pytest's has a name that is too long for a socket
        self.program = Program(self.folder, *flags, directory=self.folder)
        self.program.wait_for_socket()
        self.session = requests.Session()
        self.session.mount("http://", _Socket(self.program.socket))

    def check(self, case: Case) -> None:
        case.call_and_validate(base_url="http://localhost", session=self.session, checks=CHECKS)
        assert self.program.process.poll() is None, "it has ended"

    def close(self) -> None:
        self.session.close()
        self.program.process.kill()
        _, errors = self.program.process.communicate()
        shutil.rmtree(self.folder)
        assert b"Traceback" not in errors, errors.decode()


@pytest.fixture(scope="module")
def before() -> Iterator[Client]:
    """A program that has not started a machine."""
    client = Client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Client]:
    """A program whose guest runs."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no /dev/kvm here")
    client = Client("--no-seccomp")
    kernel = tiny.make(client.folder, tiny.say(">"), tiny.SPIN)
    client.program.put("/boot-source", kernel_image_path=kernel)
    client.program.put("/machine-config", vcpu_count=1, mem_size_mib=32)
    client.program.put(
        "/balloon", amount_mib=0, deflate_on_oom=True, stats_polling_interval_s=1, free_page_hinting=True
    )
    client.program.put("/actions", action_type="InstanceStart")
    yield client
    client.close()


@SCHEMA.parametrize()
@SHORT
def test_before_the_start(case: Case, before: Client) -> None:
    before.check(case)


@SCHEMA.parametrize()
@SHORT
def test_while_the_guest_runs(case: Case, running: Client) -> None:
    running.check(case)


@pytest.mark.long
@SCHEMA.parametrize()
@LONG
def test_before_the_start_for_long(case: Case, before: Client) -> None:
    before.check(case)


@pytest.mark.long
@SCHEMA.parametrize()
@LONG
def test_while_the_guest_runs_for_long(case: Case, running: Client) -> None:
    running.check(case)
