"""Fixtures: the machine of the recording, and gateways before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from p4p.client.thread import Context

from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.gateway import GatewayProcess
from badger_k2eg.testing.soft_ioc import client_environment

from ..gateway.wire import Wire
from .bench import Bench
from .parts import GoldenIoc, GoldenServer

Machine = tuple[GoldenIoc, GoldenServer, Context]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with GoldenIoc() as ioc, GoldenServer() as server:
        environment = client_environment(ioc, server)
        with Context("pva", conf=environment, useenv=False, nt=False) as epics:
            yield ioc, server, epics


@pytest.fixture(scope="module")
def shared_bench(broker: Broker, machine: Machine) -> Iterator[Bench]:
    yield from make_bench(broker, *machine)


@pytest.fixture
def bench(broker: Broker, machine: Machine) -> Iterator[Bench]:
    yield from make_bench(broker, *machine)


def make_bench(broker: Broker, ioc: GoldenIoc, server: GoldenServer, epics: Context) -> Iterator[Bench]:
    allowed = [option for prefix in (ioc.prefix, server.prefix, "NO") for option in ("--allow-write", f"{prefix}:*")]
    options = ("--revision", "A", *allowed)
    with (
        GatewayProcess(*options, broker=broker, epics=client_environment(ioc, server)) as gateway,
        Wire(broker, gateway.command_topic) as wire,
    ):
        yield Bench(ioc, server, gateway, wire, epics)
