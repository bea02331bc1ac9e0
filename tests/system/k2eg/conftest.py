"""A double gateway and a client of it, for the tests of the K2EG client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from badger_k2eg.k2eg.client import K2egClient
from badger_k2eg.testing.broker import Broker

from .double import Double, tree

ENUM = {"index": 1, "choices": ["off", "on", "auto"]}


@pytest.fixture
def double(broker: Broker) -> Iterator[Double]:
    pvs = {"A": tree(1.5), "B": tree(2.5), "I": tree(42), "E": tree(ENUM), "W": tree([1.0, 2.5]), "S": tree("x")}
    made = Double(broker, pvs)
    yield made
    made.close()


@pytest.fixture
def client(double: Double) -> Iterator[K2egClient]:
    with K2egClient(double.environment, f"{double.prefix}-app") as made:
        yield made
