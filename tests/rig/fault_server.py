"""`FaultServer`: a PVAccess server in a child process with the faults an IOC cannot show.

Run as `python -m tests.rig.fault_server PREFIX`, it is the server's program. p4p is imported only in the child.

Writable PVs, all NTScalar double unless said: TABLE (NTTable, a: double, b: string), NOANSWER, LATE, LOST, LOSTONCE,
APPLIEDONCE, HALF, REFUSE, CLAMP, DELAYED, TRUNC (int32), U8, I64, F32, FLAG (bool), TEXT, ARR (double array), ENUM.
Read-only: READONLY, PULSE, IMAGE (NTNDArray). PUTS:<name> counts the puts that reached the server; any put to RESET
sets everything back.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from badger_k2eg.testing.ports import wait_for_pva
from badger_k2eg.testing.processes import announce_ready, exit_with_parent, skip_build_tools
from badger_k2eg.testing.soft_ioc import Part

LATE_SECONDS = 2.0
"""How long after the put LATE takes the value."""

DELAYED_SECONDS = 0.3
"""How long after its answer DELAYED takes the value."""

CLAMP_LIMIT = 5.0
"""CLAMP keeps its value within plus and minus this."""

PULSE_PERIOD = 0.1
"""Seconds between two values of PULSE."""

REFUSAL = "rejected by the server: out of range"
"""What REFUSE says."""

COUNTED = ("NOANSWER", "LATE", "LOST", "LOSTONCE", "APPLIEDONCE", "HALF", "REFUSE", "CLAMP")
"""The PVs that have a counter PUTS:<name>."""

_ROWS = [{"a": 1.0, "b": "one"}, {"a": 2.0, "b": "two"}, {"a": 3.0, "b": "three"}]

Rule = Callable[[Any, Any], None]


class FaultServer(Part):
    """A PVAccess server whose PVs lose, delay, refuse or change a put.

    :param prefix: of all its PVs, without the colon; random by default.
    :param ports: where it serves; free ones by default.
    """

    module = "tests.rig.fault_server"
    package = "p4p"


class _Faults:
    """The PVs and their rules, in the server's process."""

    def __init__(self, prefix: str, loop: asyncio.AbstractEventLoop) -> None:
        """Make the PVs; nothing is served yet."""
        from p4p import nt
        from p4p.server.thread import SharedPV

        self._new: Callable[..., Any] = SharedPV
        self._nt = nt
        self._prefix = prefix
        self._loop = loop
        self._lock = threading.RLock()
        self._seen: Counter[str] = Counter()
        self._timers: set[asyncio.TimerHandle] = set()
        # An operation that is dropped answers with an error: the silent ones are kept.
        self._unanswered: list[Any] = []
        self._pulse = 0
        self._pulse_kind = nt.NTScalar("d")
        self._initial: dict[str, Any] = {}
        #: By whole name, as a provider of p4p.server.
        self.provider: dict[str, Any] = {}
        self._define()

    def _define(self) -> None:
        nt = self._nt
        rules: dict[str, Rule] = {
            "NOANSWER": self._no_answer,
            "LATE": self._late,
            "LOST": self._lost,
            "LOSTONCE": self._lost_once,
            "APPLIEDONCE": self._applied_once,
            "HALF": self._half,
            "REFUSE": self._refuse,
            "CLAMP": self._clamp,
            "DELAYED": self._delayed,
        }
        for name, rule in rules.items():
            self._add(name, nt.NTScalar("d"), 0.0, rule)
        self._add("TRUNC", nt.NTScalar("i"), 1, self._apply)
        self._add("U8", nt.NTScalar("B"), 1, self._apply)
        self._add("I64", nt.NTScalar("l"), 2**53 + 1, self._apply)
        self._add("F32", nt.NTScalar("f"), 0.5, self._apply)
        self._add("FLAG", nt.NTScalar("?"), False, self._apply)
        self._add("TEXT", nt.NTScalar("s"), "hello", self._apply)
        self._add("ARR", nt.NTScalar("ad"), [0.5, 1.5, 2.5], self._apply)
        self._add("ENUM", nt.NTEnum(), {"index": 1, "choices": ["off", "on", "auto"]}, self._apply)
        # Not unwrapped to rows: a put of one column alone would lose it.
        self._add("TABLE", nt.NTTable([("a", "d"), ("b", "s")]), _ROWS, self._apply_columns, unwrap=_whole)
        self._add("RESET", nt.NTScalar("i"), 0, self._reset)
        self._add("READONLY", nt.NTScalar("d"), 9.5)
        self._add("PULSE", self._pulse_kind, 0.0)
        self._add("IMAGE", nt.NTNDArray(), _image())
        for name in COUNTED:
            self._add(f"PUTS:{name}", nt.NTScalar("i"), 0)

    def _add(self, name: str, kind: Any, initial: Any, rule: Rule | None = None, **options: Any) -> None:
        handler = None if rule is None else _Handler(functools.partial(self._put, name, rule))
        pv = self._new(nt=kind, initial=initial, timestamp=time.time(), handler=handler, **options)
        self._initial[name] = initial
        self.provider[f"{self._prefix}:{name}"] = pv

    def _put(self, name: str, rule: Rule, pv: Any, operation: Any) -> None:
        with self._lock:
            if name in COUNTED:
                self._seen[name] += 1
                self._post(f"PUTS:{name}", self._seen[name])
            rule(pv, operation)

    def _post(self, name: str, value: Any) -> None:
        self.provider[f"{self._prefix}:{name}"].post(value, timestamp=time.time())

    def _apply(self, pv: Any, operation: Any) -> None:
        pv.post(operation.value(), timestamp=time.time())
        operation.done()

    def _apply_columns(self, pv: Any, operation: Any) -> None:
        value = operation.value()
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        value["timeStamp.secondsPastEpoch"], value["timeStamp.nanoseconds"] = seconds, nanoseconds
        pv.post(value)
        operation.done()

    def _no_answer(self, pv: Any, operation: Any) -> None:
        self._unanswered.append(operation)
        pv.post(operation.value(), timestamp=time.time())

    def _late(self, pv: Any, operation: Any) -> None:
        self._unanswered.append(operation)
        self._post_later(LATE_SECONDS, pv, operation.value())

    def _lost(self, _pv: Any, operation: Any) -> None:
        self._unanswered.append(operation)

    def _lost_once(self, pv: Any, operation: Any) -> None:
        (self._lost if self._seen["LOSTONCE"] == 1 else self._apply)(pv, operation)

    def _applied_once(self, pv: Any, operation: Any) -> None:
        (self._no_answer if self._seen["APPLIEDONCE"] == 1 else self._apply)(pv, operation)

    def _half(self, pv: Any, operation: Any) -> None:
        self._unanswered.append(operation)
        pv.post(float(operation.value()) / 2, timestamp=time.time())

    def _refuse(self, _pv: Any, operation: Any) -> None:
        operation.done(error=REFUSAL)

    def _clamp(self, pv: Any, operation: Any) -> None:
        pv.post(min(CLAMP_LIMIT, max(-CLAMP_LIMIT, float(operation.value()))), timestamp=time.time())
        operation.done()

    def _delayed(self, pv: Any, operation: Any) -> None:
        operation.done()
        self._post_later(DELAYED_SECONDS, pv, operation.value())

    def _post_later(self, seconds: float, pv: Any, value: Any) -> None:
        due = time.monotonic() + seconds

        def post(handle: list[asyncio.TimerHandle]) -> None:
            with self._lock:
                # Absent after a RESET: this value belongs to a test that is over.
                if handle[0] in self._timers:
                    self._timers.discard(handle[0])
                    pv.post(value, timestamp=time.time())

        def begin() -> None:
            handle: list[asyncio.TimerHandle] = []
            handle.append(self._loop.call_later(max(0.0, due - time.monotonic()), post, handle))
            self._timers.add(handle[0])

        self._loop.call_soon_threadsafe(begin)

    def _reset(self, _pv: Any, operation: Any) -> None:
        self._timers.clear()
        self._seen.clear()
        for name, initial in self._initial.items():
            if name != "PULSE":
                self._post(name, initial)
        operation.done()

    async def pulse(self) -> None:
        """Post a new value of PULSE ten times a second, its pulse id in timeStamp.userTag."""
        pv = self.provider[f"{self._prefix}:PULSE"]
        began = time.monotonic()
        while True:
            self._pulse += 1
            value = self._pulse_kind.wrap(float(self._pulse), timestamp=time.time())
            value["timeStamp.userTag"] = self._pulse
            pv.post(value)
            await asyncio.sleep(max(0.0, began + self._pulse * PULSE_PERIOD - time.monotonic()))


class _Handler:
    """What p4p calls for a put."""

    def __init__(self, put: Rule) -> None:
        """Take the rule of one PV."""
        self.put = put


def _whole(value: Any) -> Any:
    return value


def _image() -> Any:
    import numpy as np

    return np.arange(6, dtype="u1").reshape(2, 3)


async def _serve(prefix: str) -> None:
    from p4p.server import Server

    faults = _Faults(prefix, asyncio.get_running_loop())
    with Server(providers=[faults.provider]):
        wait_for_pva(
            f"{prefix}:TEXT", int(os.environ["EPICS_PVAS_BROADCAST_PORT"]), int(os.environ["EPICS_PVAS_SERVER_PORT"])
        )
        announce_ready()
        await faults.pulse()


def main() -> None:
    """Serve until the parent is gone."""
    parser = argparse.ArgumentParser(description="the PVAccess server of the tests of badger-k2eg")
    parser.add_argument("prefix")
    options = parser.parse_args()
    exit_with_parent()
    skip_build_tools()
    asyncio.run(_serve(options.prefix))


if __name__ == "__main__":
    main()
