"""A ``MemoryBackend`` set up to behave as the real IOC and the fault server of ``tests.rig`` do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from badger_k2eg.backends.memory import Fault, MemoryBackend
from badger_k2eg.core import clock
from badger_k2eg.core.model import Kind, PvType, Severity
from tests.rig.fault_server import CLAMP_LIMIT, DELAYED_SECONDS, LATE_SECONDS
from tests.rig.ioc import FLAG_DELAYS, MOVE_SECONDS

from .machine import INITIAL

_FAULTS: dict[str, tuple[Fault, int, float]] = {
    "NOANSWER": (Fault.UNANSWERED, -1, 0.0),
    "LATE": (Fault.LATE, -1, LATE_SECONDS),
    "LOST": (Fault.LOST, -1, 0.0),
    "LOSTONCE": (Fault.LOST, 1, 0.0),
    "APPLIEDONCE": (Fault.UNANSWERED, 1, 0.0),
    "HALF": (Fault.HALF, -1, 0.0),
    "REFUSE": (Fault.REFUSED, -1, 0.0),
    "DELAYED": (Fault.DELAYED, -1, DELAYED_SECONDS),
}
_RAMP_PERIOD = 0.05
_NOISE, _NOISE_PERIOD, _NOISE_SECONDS = 0.25, 0.1, 1.0


class SimulatedMachine:
    """All PVs of the suite in memory."""

    def __init__(self) -> None:
        self.memory = MemoryBackend()
        self._faults: dict[str, tuple[Fault, int, float]] = {}
        self._turns: dict[str, int] = {}
        self._records()
        self._faulty()
        self._stubborn()
        self._readbacks()
        self._late_flags()

    def _add(self, name: str, value: Any, **about: Any) -> None:
        self.memory.add(f"MEM:{name}", value, **about)

    def _post(self, name: str, value: Any) -> None:
        self.memory.post(f"MEM:{name}", value)

    def _on_put(self, name: str, react: Callable[[Any], None]) -> None:
        self.memory.on_put(f"MEM:{name}", react)

    def _fault(self, name: str, fault: Fault, times: int = -1, delay: float = 0.3) -> None:
        self._faults[name] = (fault, times, delay)
        self.memory.fault(f"MEM:{name}", fault, times=times, delay=delay)

    def _records(self) -> None:
        text = PvType(Kind.STRING, max_length=39)
        self._add("DBL", 1.5, units="mm", precision=3, limits=(-5.0, 5.0))
        self._add("FREE", 1.0, precision=3)
        self._add("INT", 42, units="cnt", limits=(-100.0, 100.0), type=PvType(Kind.INT, 32))
        self._add("INTFREE", 7, type=PvType(Kind.INT, 32))
        self._add("STR", INITIAL["STR"], type=text)
        self._add("LSTR", INITIAL["LSTR"], type=PvType(Kind.STRING, max_length=255))
        self._add("ENUM", 1, choices=("off", "on", "auto"))
        self._add("BOOL", 1, choices=("closed", "open"))
        self._add("WF", INITIAL["WF"], type=PvType(Kind.FLOAT, 64, array=True, max_length=8))
        self._add("IWF", np.array(INITIAL["IWF"], "i4"), type=PvType(Kind.INT, 32, array=True, max_length=8))
        self._add("F32WF", np.array(INITIAL["F32WF"], "f4"), type=PvType(Kind.FLOAT, 32, array=True, max_length=4))
        self._add("SWF", INITIAL["SWF"], type=PvType(Kind.STRING, array=True, max_length=4))
        self._add("STATIC", 7.0)
        for name in ("Q[1]", "Q1", "B{IOC-1}Val"):
            self._add(name, 1.0)
        self._add("UDF", 0.0, severity=Severity.INVALID, message="UDF")
        self._add("NAN", math.nan, severity=Severity.INVALID, message="UDF")
        self._add("MAJOR", 11.0, severity=Severity.MAJOR, message="HIHI")
        self._add("MINOR", 6.0, severity=Severity.MINOR, message="HIGH")
        self._add("INVALID", 3.0, severity=Severity.INVALID, message="READ")
        self._add("ASG", 1.0, writable=False)
        for name in ("DISP", "VALID"):
            self._add(name, 1.0)
            self._fault(name, Fault.REFUSED)
        self._add("CMD", 0, type=PvType(Kind.INT, 32))
        self._add("CMD:COUNT", 0)
        self._on_put("CMD", lambda _: self._post("CMD:COUNT", self.memory.value("MEM:CMD:COUNT") + 1))

    def _faulty(self) -> None:
        for name, fault in _FAULTS.items():
            self._add(name, 0.0)
            self._fault(name, *fault)
        self._add("READONLY", 9.5)
        self._fault("READONLY", Fault.REFUSED)
        self._add("CLAMP", 0.0)
        self._on_put("CLAMP", lambda value: self._post("CLAMP", min(CLAMP_LIMIT, max(-CLAMP_LIMIT, value))))
        self._add("TRUNC", 1, type=PvType(Kind.INT, 32))
        self._add("U8", 1, type=PvType(Kind.INT, 8, signed=False))
        self._add("I64", 2**53 + 1)
        self._add("FLOAT32", 0.5, type=PvType(Kind.FLOAT, 32))
        self._add("FLAG", False)
        self._add("TEXT", "hello")
        self._add("ARR", [0.5, 1.5, 2.5])
        self._add("TABLE", {"a": np.array([1.0, 2.0, 3.0]), "b": ["one", "two", "three"]})

    def _stubborn(self) -> None:
        self._add("LONG", 0, type=PvType(Kind.INT, 64), limits=(0.0, float(2**53 + 2)))
        self._on_put("LONG", lambda value: self._post("LONG", min(value, 2**53 + 2)))
        for kind, limits in (("L", (-10.0, 10.0)), ("F", (None, None))):
            rules: dict[str, Callable[[float], float]] = {
                "CLOSED": lambda _: 4.0,
                "SCANNED": lambda _: 4.0,
                "LINKED": lambda _: 4.0,
                "CALC": lambda value: min(value, 4.0),
                "INPUT": lambda _: 4.0,
                "QUANT": lambda value: round(value, 1),
            }
            for name in [*rules, "PLAIN", "SHARED", "LOWERED", "FAILING"]:
                self._add(f"{name}:{kind}", 4.0, limits=limits)
            for name, rule in rules.items():
                self._on_put(f"{name}:{kind}", self._ruled(f"{name}:{kind}", rule, 0.1 if name == "SCANNED" else 0.0))

    def _ruled(self, name: str, rule: Callable[[float], float], after: float) -> Callable[[float], None]:
        return lambda value: self.memory.later(after, lambda: self._post(name, rule(value)))

    def _readbacks(self) -> None:
        self._add("SETTLE", INITIAL["SETTLE"])
        self._add("RAMP:RATE", 1.0)
        pairs = {f"SP:{i:03d}": f"RB:{i:03d}" for i in range(100)}
        for setpoint, readback in pairs.items():
            self._add(setpoint, 0.0, limits=(-100.0, 100.0), precision=3)
            self._add(readback, 0.0, precision=3)
            self._on_put(setpoint, self._latest(setpoint, self._following(readback)))
        for name, react in (("RAMP", self._ramping), ("NOISY", self._toggling), ("STICK", None)):
            self._add(f"{name}:SP", 0.0)
            self._add(f"{name}:RB", 0.0)
            if react is not None:
                self._on_put(f"{name}:SP", self._latest(name, react))

    def _late_flags(self) -> None:
        for i, late in enumerate(FLAG_DELAYS):
            self._add(f"MOVE:{i}:SP", 0.0, limits=(-100.0, 100.0), precision=3)
            self._add(f"MOVE:{i}:RB", 0.0, precision=3)
            self._add(f"MOVE:{i}:ST", 0, choices=("ready", "moving"))
            self._on_put(f"MOVE:{i}:SP", self._moving(f"MOVE:{i}", late))

    def _moving(self, name: str, late: float | None) -> Callable[[float], None]:
        def rise(target: float) -> None:
            if late is not None:
                self._post(f"{name}:ST", 1)
            self.memory.later(MOVE_SECONDS, lambda: arrive(target))

        def arrive(target: float) -> None:
            self._post(f"{name}:RB", target)
            self._post(f"{name}:ST", 0)

        return lambda target: self.memory.later(late or 0.0, lambda: rise(target))

    def _latest(self, name: str, react: Callable[[float, Callable[[], bool]], None]) -> Callable[[float], None]:
        """A newer put takes the place of an older one that is still under way."""

        def begin(value: float) -> None:
            turn = self._turns[name] = self._turns.get(name, 0) + 1
            react(value, lambda: self._turns[name] == turn)

        return begin

    def _following(self, readback: str) -> Callable[[float, Callable[[], bool]], None]:
        def follow(value: float, wanted: Callable[[], bool]) -> None:
            settle = self.memory.value("MEM:SETTLE")
            self.memory.later(settle, lambda: self._post(readback, value) if wanted() else None)

        return follow

    def _ramping(self, target: float, wanted: Callable[[], bool]) -> None:
        start, speed = self.memory.value("MEM:RAMP:RB"), abs(self.memory.value("MEM:RAMP:RATE"))
        began = clock.monotonic()

        def step() -> None:
            way = speed * (clock.monotonic() - began)
            if not wanted():
                return
            if way >= abs(target - start):
                self._post("RAMP:RB", target)
                return
            self._post("RAMP:RB", start + math.copysign(way, target - start))
            self.memory.later(_RAMP_PERIOD, step)

        step()

    def _toggling(self, target: float, wanted: Callable[[], bool]) -> None:
        until = clock.monotonic() + _NOISE_SECONDS

        def step(outside: bool) -> None:
            if not wanted():
                return
            if clock.monotonic() >= until:
                self._post("NOISY:RB", target)
                return
            self._post("NOISY:RB", target + (_NOISE if outside else 0.0))
            self.memory.later(_NOISE_PERIOD, lambda: step(not outside))

        step(False)

    def vanish(self) -> None:
        for name in INITIAL:
            self.memory.fault(f"MEM:{name}", Fault.MISSING)

    def come_back(self) -> None:
        for name in INITIAL:
            fault, times, delay = self._faults.get(name, (None, -1, 0.3))
            self.memory.fault(f"MEM:{name}", fault, times=times, delay=delay)
