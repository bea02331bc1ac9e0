"""The virtual injector as a real IOC, one for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from examples.virtual_injector.part import VirtualInjector

from .machine import Machine

if TYPE_CHECKING:
    from p4p.client.thread import Context


@pytest.fixture(scope="module")
def injector() -> Iterator[VirtualInjector]:
    pytest.importorskip("softioc", reason="pip install 'badger-k2eg[test]'")
    with VirtualInjector() as running:
        yield running


@pytest.fixture(scope="module")
def context(injector: VirtualInjector) -> Iterator[Context]:
    from p4p.client.thread import Context

    with Context("pva", nt=False, conf=injector.client_environment, useenv=False) as made:
        yield made


@pytest.fixture
def machine(injector: VirtualInjector, context: Context) -> Iterator[Machine]:
    """The machine as just switched on, but with readings that come at once."""
    made = Machine(context, injector)
    made.reset()
    made.put("SIM:LATENCY", 0.0)
    yield made
    assert "Traceback" not in injector.output, injector.output
