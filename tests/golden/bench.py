"""A gateway before the machine of the recording."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgpack
from p4p.client.thread import Context

from badger_k2eg.kafka import KafkaRecord
from badger_k2eg.testing.gateway import GatewayProcess

from ..gateway.wire import Wire
from .parts import GoldenIoc, GoldenServer


@dataclass
class Bench:
    """The gateway and its machine, in place of those of the recording."""

    ioc: GoldenIoc
    server: GoldenServer
    gateway: GatewayProcess
    wire: Wire
    epics: Context

    def ours(self, text: str) -> str:
        for name, part in (("TST", self.ioc), ("P4P", self.server)):
            text = text.replace(f"{name}:", f"{part.prefix}:").replace(f"{name}_", f"{part.prefix}_")
        return text

    def recorded(self, text: str) -> str:
        for name, part in (("TST", self.ioc), ("P4P", self.server)):
            text = text.replace(f"{part.prefix}:", f"{name}:").replace(f"{part.prefix}_", f"{name}_")
        return text

    def recorded_body(self, record: KafkaRecord) -> dict[str, Any]:
        value = record.value or b""
        body = json.loads(value) if record.headers[0][1] == b"Json" else msgpack.unpackb(value)
        body = {self.recorded(key): item for key, item in body.items()}
        return {key: self.recorded(item) if isinstance(item, str) else item for key, item in body.items()}
