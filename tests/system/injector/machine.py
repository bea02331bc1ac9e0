"""A short way to get, put and watch the PVs of the virtual injector; the client is p4p itself."""

from __future__ import annotations

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
        self.all: list[tuple[float, Any]] = []
        # p4p loses a subscription whose first update comes before `monitor` has returned, and says so in its log.
        for _ in range(5):
            self._subscription = context.monitor(name, lambda value: self.all.append((time.time(), value)))
            end = time.monotonic() + PATIENCE / 5
            while not self.all and time.monotonic() < end:
                time.sleep(0.005)
            if self.all:
                break
            self._subscription.close()

    def __enter__(self) -> Updates:
        return self

    def __exit__(self, *_: object) -> None:
        self._subscription.close()

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
