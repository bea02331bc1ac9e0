"""The real parts of the tests do what they promise: every record of the IOC, every fault of the server, every signal.

Clients here are p4p and caproto themselves, none of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from badger_k2eg.testing.soft_ioc import SoftIoc
from tests.rig.fault_server import FaultServer

from .part import Part

if TYPE_CHECKING:
    from p4p.client.thread import Context


pytest.importorskip("softioc", reason="pip install badger-k2eg[test]")
pytest.importorskip("p4p")


@pytest.fixture(scope="module")
def context(soft_ioc: SoftIoc, second_soft_ioc: SoftIoc, fault_server: FaultServer) -> Iterator[Context]:
    """One client for all parts, made from the environment alone."""
    from p4p.client.thread import Context

    with Context("pva", nt=False) as made:
        yield made


@pytest.fixture
def ioc(soft_ioc: SoftIoc, context: Context) -> Part:
    return Part(context, soft_ioc)


@pytest.fixture
def server(fault_server: FaultServer, context: Context) -> Iterator[Part]:
    part = Part(context, fault_server)
    part.put("RESET", 1)
    yield part
    part.put("RESET", 1)
