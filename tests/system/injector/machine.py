"""A short way to get, put and watch the PVs of the virtual injector; the client is p4p itself."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from examples.virtual_injector.lattice import MAGNETS
from examples.virtual_injector.part import VirtualInjector
from tests.rig.waiting import eventually

if TYPE_CHECKING:
    from p4p.client.thread import Context

PATIENCE = 15.0
"""Seconds for what takes a fraction of one on an idle machine."""


class Updates:
    """What a monitor got, with the time of its arrival."""

    def __init__(self, context: Context, name: str) -> None:
        from p4p.client.raw import Context as RawContext

        self.all: list[tuple[float, Any]] = []
        # Not p4p's own monitor: one that is closed while it is read can stop the whole process (p4p 4.3.0).
        self._lock = threading.Lock()
        self._events: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._handle: Any = RawContext.monitor(context, name, lambda: self._events.put(True))
        self._events.put(True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        eventually(lambda: bool(self.all))

    def _read(self) -> None:
        while self._events.get():
            while True:
                with self._lock:
                    value = None if self._handle is None else self._handle.pop()
                if value is None:
                    break
                if not isinstance(value, Exception):
                    self.all.append((time.time(), value))

    def __enter__(self) -> Updates:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            handle, self._handle = self._handle, None
            handle.close()
        self._events.put(False)
        self._thread.join()

    def values(self, least: int) -> list[Any]:
        """All so far, after so many at least."""
        return [value for _, value in eventually(lambda: list(self.all), good=lambda got: len(got) >= least)]


class Machine:
    """A short way to write a get and a put."""

    def __init__(self, context: Context, injector: VirtualInjector) -> None:
        self.context, self.injector = context, injector

    def whole(self, name: str) -> Any:
        return self.context.get(self.injector.pv(name), timeout=PATIENCE)

    def get(self, name: str) -> Any:
        return plain(self.whole(name))

    def severity(self, name: str) -> int:
        return int(self.whole(name).alarm.severity)

    def put(self, name: str, value: Any) -> None:
        enum = name.startswith(("SIM:RESET", "SIM:TRIP", "SIM:HYST", "BEAM:RATE")) or name.endswith(("STICK", "FAULT"))
        self.context.put(self.injector.pv(name), {"value.index" if enum else "value": value}, timeout=PATIENCE)

    def updates(self, name: str) -> Updates:
        return Updates(self.context, self.injector.pv(name))

    def until(self, name: str, wanted: Any) -> None:
        eventually(lambda: self.get(name), good=lambda value: value == wanted)

    def arrive(self, name: str, value: float) -> None:
        """Wait until the magnet is there."""
        self.until(f"{name}:BACT", pytest.approx(value, abs=1e-3 * MAGNETS[name].span))
        self.until(f"{name}:STATMSG", "Ready")

    def set(self, name: str, value: float) -> None:
        """Put a field, wait until the magnet is there; the rate is as high as it goes."""
        self.put(f"{name}:RATE", 100 * MAGNETS[name].rate)
        self.put(f"{name}:BCTRL", value)
        self.arrive(name, value)

    def reset(self) -> None:
        self.put("SIM:RESET", 1)
        self.until("SIM:RESET", "done")

    def fresh(self, name: str) -> float:
        """The second update from now: it was taken after now. Only without latency."""
        with self.updates(name) as updates:
            return float(updates.values(3)[-1].value)


def plain(value: Any) -> Any:
    """The value of a structure; the text of an enum."""
    inner = value.value
    return inner.choices[inner.index] if hasattr(inner, "choices") else inner


def stamp(value: Any) -> float:
    return float(value.timeStamp.secondsPastEpoch + 1e-9 * value.timeStamp.nanoseconds)
