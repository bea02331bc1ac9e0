"""The machine as it runs: one thread that reads what was put, lets time pass, and publishes what comes of it.

Owns the order of things within a tick. The parts know nothing of each other: `supplies`, `lattice`, `diagnostics`,
`records`.
"""

from __future__ import annotations

import os
import threading
import time
import traceback

from .diagnostics import Diagnostics
from .lattice import MAGNETS, START, propagate
from .records import RATES, Pulses, Records
from .supplies import Supply

TICK = 0.05
"""Seconds between two looks at the machine. A put wakes it at once."""

READBACK_PERIOD = 0.2
"""Seconds between two updates of every readback."""

_RIPPLE = 1e-5
"""rms of a readback over the range of its magnet."""

_RATES = tuple(RATES.values())


class Engine:
    """The physics thread.

    :param prefix: of the PVs, without the colon.
    :param seed: of the noise; None for another one each time.
    """

    def __init__(self, prefix: str, seed: int | None = None) -> None:
        """Define the PVs; they are not served yet, and nothing moves."""
        self._wake = threading.Event()
        self.records = Records(self._wake.set)
        self.pulses = Pulses(prefix)
        self._diagnostics = Diagnostics(seed)
        self._switch_on()

    def _switch_on(self) -> None:
        self._supplies = {name: Supply(magnet) for name, magnet in MAGNETS.items()}
        self._fields = dict(START)
        self._beam = propagate(self._fields)
        self._said: dict[str, int] = {}
        # Nothing has been said yet: all of it will be.
        self._permitted: bool | None = None
        self._rate = -1.0
        self._read_back = 0.0
        self._last = time.monotonic()

    def start(self) -> None:
        """Publish a first reading of everything, and go on in a thread; after the IOC has started."""
        self._first_light()
        self._step()
        threading.Thread(target=self._run, name="physics", daemon=True).start()

    def _first_light(self) -> None:
        # The first reading is there at once; all others come after the latency.
        self._diagnostics.latency = 0.0
        self._diagnostics.fire(self._beam, max(_RATES), 2 * TICK, time.monotonic(), time.time())
        self._publish(time.monotonic())

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + TICK, time.monotonic())
            while (rest := due - time.monotonic()) > 0:
                if self._wake.wait(rest):
                    self._wake.clear()
                    self._try_step()
            self._try_step()

    def _try_step(self) -> None:
        try:
            self._step()
        except Exception:
            # Without this thread the PVs would answer for ever with what was: rather none than a machine that is dead
            # and looks alive.
            traceback.print_exc()
            os._exit(1)

    def _step(self) -> None:
        if self.records.reset_switch.get():
            self._reset()
        now, wall = time.monotonic(), time.time()
        seconds, self._last = now - self._last, now
        self._move(seconds)
        self._say()
        rate = self._beam_rate()
        self._diagnostics.noise = self.records.noise.get()
        self._diagnostics.latency = self.records.latency.get()
        self._diagnostics.missed = self.records.missed.get()
        self._diagnostics.fire(self._beam, rate, seconds, now, wall)
        self._publish(now)
        if now >= self._read_back:
            self._read_back = now + READBACK_PERIOD
            for name, supply in self._supplies.items():
                ripple = self._diagnostics.ripple(_RIPPLE * supply.magnet.span)
                self.records.readbacks[name].set(supply.output + ripple)

    def _reset(self) -> None:
        self.records.reset()
        self._diagnostics.forget()
        self._switch_on()
        self._first_light()
        self.records.reset_switch.set(0)

    def _move(self, seconds: float) -> None:
        hysteresis = bool(self.records.hysteresis.get())
        self._supplies["QUAD:3"].stuck = bool(self.records.stick.get())
        self._supplies["QUAD:4"].fault = bool(self.records.fault.get())
        for name, supply in self._supplies.items():
            supply.setpoint = self.records.setpoints[name].get()
            supply.rate = self.records.rates[name].get()
            supply.hysteresis = hysteresis
            supply.step(seconds)
        fields = {name: supply.field for name, supply in self._supplies.items()}
        if fields != self._fields:
            self._fields, self._beam = fields, propagate(fields)

    def _say(self) -> None:
        for name, supply in self._supplies.items():
            if self._said.get(name) != supply.status:
                self._said[name] = supply.status
                self.records.statuses[name].set(supply.status)

    def _beam_rate(self) -> float:
        permitted = not self.records.trip.get()
        if permitted != self._permitted:
            self._permitted = permitted
            self.records.permit.set(0 if permitted else 1)
            if not permitted:
                self._diagnostics.forget()
                self.records.show_nothing()
                self.pulses.show_nothing()
        rate = _RATES[self.records.rate.get()] if permitted else 0.0
        if rate != self._rate:
            self._rate = rate
            self.records.actual_rate.set(rate)
        return rate

    def _publish(self, now: float) -> None:
        reading = self._diagnostics.arrived(now)
        if reading is not None:
            self.records.show(reading)
            self.pulses.show(reading)
