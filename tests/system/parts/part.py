"""A short way to get and put, and to wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.rig.waiting import eventually

if TYPE_CHECKING:
    from p4p.client.thread import Context


SHORT = 0.3
"""Seconds after which a put that gets no answer is given up here."""


class Part:
    """A short way to write a get and a put of one part."""

    def __init__(self, context: Context, server: Any) -> None:
        self.context, self.server = context, server

    def whole(self, name: str) -> Any:
        return self.context.get(self.server.pv(name), timeout=5)

    def get(self, name: str) -> Any:
        value = self.whole(name).value
        return value.index if hasattr(value, "index") and hasattr(value, "choices") else value

    def put(self, name: str, value: Any, field: str = "value", **options: Any) -> Any:
        options.setdefault("timeout", 5)
        return self.context.put(self.server.pv(name), {field: value}, **options)

    def severity(self, name: str) -> tuple[int, str]:
        alarm = self.whole(name).alarm
        return alarm.severity, alarm.message

    def seen(self, name: str) -> int:
        return int(self.get(f"PUTS:{name}"))


def seconds_until(ask: Callable[[], Any], wanted: Any) -> float:
    """Wait until the answer is the wanted one; give the seconds it took."""
    began = time.monotonic()
    eventually(ask, wanted)
    return time.monotonic() - began
