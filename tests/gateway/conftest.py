"""Fixtures: gateways in this process, before a machine in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core import settings
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.gateway import Gateway
from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.soft_ioc import random_prefix

from .wire import PATIENCE, Wire


@dataclass
class Served:
    """A gateway, what it serves, and a client that is nothing but the wire."""

    gateway: Gateway
    memory: MemoryBackend
    wire: Wire
    #: Where this client has its replies.
    replies: str
    #: Makes the names of topics the test's own.
    prefix: str = field(default_factory=random_prefix)

    def ask(self, kind: type[Any], **fields: Any) -> Any:
        return self.wire.ask(kind, topic=self.replies, **fields)

    def listen(self, *topics: str) -> tuple[str, ...]:
        self.wire.listen(*topics)
        return topics


Serve = Callable[..., Served]


@pytest.fixture
def serve(broker: Broker, memory_context: MemoryBackend) -> Iterator[Serve]:
    """Give a function that starts a gateway: keywords of `Gateway`, and `options` of `Settings`."""
    with contextlib.ExitStack() as running:

        def start(topic: str | None = None, *, options: dict[str, Any] | None = None, **keywords: Any) -> Served:
            control = Control(memory_context, settings.load({"timeout": 10.0, "put_attempts": 1, **(options or {})}))
            prefix = random_prefix()
            topic = topic or f"cmd-{prefix}"
            gateway = Gateway(broker.connection, topic, control, group=f"group-{topic}", **keywords)
            running.callback(gateway.close)
            gateway.start(Deadline(PATIENCE))
            wire = running.enter_context(Wire(broker, topic))
            wire.listen(f"replies-{prefix}")
            return Served(gateway, memory_context, wire, f"replies-{prefix}", prefix)

        yield start
