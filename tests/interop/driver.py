"""Drives the k2eg client library; run with the Python of its own environment, which has nothing of ours.

`python driver.py APP_NAME STEPS`: STEPS is a list in JSON of `[method, arguments...]`; prints a list of
`{"value": ..., "error": ..., "seconds": ...}`, one for each, in JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import k2eg
from k2eg.broker import SnapshotProperties, SnapshotType
from k2eg.serialization import Scalar, Vector


class Driver:
    def __init__(self, app_name: str) -> None:
        self.client = k2eg.dml("gateway", app_name)
        self.events: list[Any] = []

    def get(self, uri: str, timeout: float) -> Any:
        return self.client.get(uri, timeout)

    def put(self, uri: str, value: Any, timeout: float) -> Any:
        payload = Vector(payload=value) if isinstance(value, list) else Scalar(payload=value)
        return self.client.put(uri, payload, timeout)

    def snapshot_sync(self, uris: list[str], timeout: float) -> Any:
        return self.client.snapshot_sync(uris, timeout)

    def monitor(self, uri: str, timeout: float) -> Any:
        return self.client.monitor(uri, self._hear, timeout)

    def monitor_many(self, uris: list[str], timeout: float) -> Any:
        return self.client.monitor_many(uris, self._hear, timeout)

    def stop_monitor(self, name: str) -> Any:
        return self.client.stop_monitor(name)

    def recurring(self, timeout: float, properties: dict[str, Any]) -> Any:
        kind = SnapshotType(properties.pop("type", "normal"))
        return self.client.snapshot_recurring(SnapshotProperties(type=kind, **properties), self._hear, timeout)

    def trigger(self, name: str, timeout: float) -> Any:
        return self.client.snapshost_trigger(name, timeout)

    def stop(self, name: str, timeout: float) -> Any:
        return self.client.snapshot_stop(name, timeout)

    def collect(self, count: int, seconds: float) -> list[Any]:
        """Wait for so many events, at most so long; give all since the last time."""
        until = time.monotonic() + seconds
        while len(self.events) < count and time.monotonic() < until:
            time.sleep(0.02)
        heard, self.events = self.events, []
        return heard

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def _hear(self, name: str, data: Any) -> None:
        self.events.append([name, data])


def _take(step: Callable[..., Any], arguments: list[Any]) -> dict[str, Any]:
    began = time.monotonic()
    answer: dict[str, Any] = {"value": None, "error": None}
    try:
        answer["value"] = step(*arguments)
    except Exception as error:  # the test judges it
        answer["error"] = [type(error).__name__, str(error)]
    return {**answer, "seconds": time.monotonic() - began}


def main() -> None:
    app_name, steps = sys.argv[1], json.loads(sys.argv[2])
    driver = Driver(app_name)
    answers = [_take(getattr(driver, method), arguments) for method, *arguments in steps]
    print(json.dumps(answers, default=repr), flush=True)
    driver.client.close()
    # Whatever threads are left.
    os._exit(0)


if __name__ == "__main__":
    main()
