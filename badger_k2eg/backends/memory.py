"""A control system in this process's memory, for unit tests of environments.

It behaves like an IOC where that matters: it clips to its drive limits and still reports success, keeps alarms and
times, and can be told to lose, refuse or delay puts. Imports no client library.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count
from typing import Any

import numpy as np

from ..core import clock, fork
from ..core.backend import Subscription, Update
from ..core.deadline import Deadline
from ..core.errors import CallCancelled, PvNotConnected
from ..core.model import Fields, Kind, Limits, Outcome, PutAnswer, PvAddress, PvType, Reading, type_of

logger = logging.getLogger(__name__)


class Fault(StrEnum):
    """A fault of a PV."""

    #: Nobody serves it.
    MISSING = "missing"
    #: It can be read; a put is neither applied nor answered.
    LOST = "lost"
    #: It can be read; a put is applied but not answered.
    UNANSWERED = "unanswered"
    #: A put is not answered, and only half of the change is made.
    HALF = "half"
    #: A put is refused.
    REFUSED = "refused"
    #: A put is applied and answered with an error, as by a record whose output fails.
    FAILING = "failing"
    #: A put is answered at once and applied ``delay`` seconds later.
    DELAYED = "delayed"
    #: A put is not answered and is applied ``delay`` seconds later.
    LATE = "late"


@dataclass(slots=True)
class _Pv:
    reading: Reading
    fault: Fault | None = None
    #: How many more puts the fault affects; negative for all.
    times: int = -1
    delay: float = 0.0
    on_put: list[Callable[[Any], None]] = field(default_factory=list)
    watchers: list[_Subscription] = field(default_factory=list)


class MemoryBackend:
    """PVs in memory. Give it to an interface: ``Interface(context=MemoryBackend({"QUAD:SET": 1.0}))``.

    :param pvs: names and first values; ``add`` takes more about a PV.
    """

    def __init__(self, pvs: Mapping[str, Any] | None = None) -> None:
        """Add the PVs."""
        self._pvs: dict[str, _Pv] = {}
        #: Every put that reached a PV, in order: name and value.
        self.puts: list[tuple[str, Any]] = []
        self._order = count()
        self._begin()
        fork.register(self)
        for name, value in (pvs or {}).items():
            self.add(name, value)

    def _begin(self) -> None:
        # Held while a value changes and its subscriptions are called: updates of one PV come in order.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._clock: threading.Thread | None = None

    # -- making a machine ----------------------------------------------------------------------------------------

    def add(self, name: str, value: Any, **about: Any) -> None:
        """Add a PV.

        :param about: fields of ``Reading``: ``units``, ``limits`` (also a pair), ``choices`` (makes it an enum),
            ``precision``, ``severity``, ``message``, ``writable``, ``type``, ...
        """
        value = np.array(value) if isinstance(value, list) and value and not isinstance(value[0], str) else value
        if isinstance(limits := about.get("limits"), tuple):
            about["limits"] = Limits(*limits)
        about.setdefault("type", PvType(Kind.ENUM, 32) if "choices" in about else type_of(value))
        about.setdefault("timestamp_ns", clock.time_ns())
        with self._lock:
            self._pvs[name] = _Pv(Reading(value=value, **about))

    def post(self, name: str, value: Any, **about: Any) -> None:
        """Change a PV from the machine's side, and update its monitors."""
        with self._lock:
            pv = self._pvs[name]
            value = np.array(value) if isinstance(value, list) and isinstance(pv.reading.value, np.ndarray) else value
            about.setdefault("timestamp_ns", clock.time_ns())
            pv.reading = replace(pv.reading, value=value, received=clock.monotonic(), **about)
            for watcher in list(pv.watchers) if pv.fault is not Fault.MISSING else ():
                watcher.tell(pv.reading)

    def value(self, name: str) -> Any:
        """Return a PV's value, in spite of any fault."""
        return self._pvs[name].reading.plain

    def fault(self, name: str, fault: Fault | str | None, *, times: int = -1, delay: float = 0.3) -> None:
        """Give a PV a fault; None removes it.

        :param times: how many puts it affects; negative for all.
        :param delay: seconds, for DELAYED and LATE.
        """
        with self._lock:
            pv = self._pvs[name]
            pv.fault, pv.times, pv.delay = Fault(fault) if fault is not None else None, times, delay
            if pv.fault is Fault.MISSING:
                for watcher in list(pv.watchers):
                    watcher.tell(PvNotConnected(name, "disconnected"))
            else:
                for watcher in list(pv.watchers):
                    watcher.tell(pv.reading)
            self._changed.notify_all()

    def on_put(self, name: str, react: Callable[[Any], None]) -> None:
        """Call ``react(value)`` whenever a put is applied to a PV."""
        self._pvs[name].on_put.append(react)

    def follow(self, setpoint: str, readback: str, *, after: float = 0.0, offset: float = 0.0) -> None:
        """Set a readback to setpoint + offset, ``after`` seconds after each put."""
        self.on_put(setpoint, lambda value: self.later(after, lambda: self.post(readback, value + offset)))

    def beat(self, name: str, every: float = 0.05) -> None:
        """Post a PV's value periodically until closed, like a diagnostic at the beam's rate."""
        self.post(name, self._pvs[name].reading.value)
        self.later(every, lambda: self.beat(name, every))

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Run an action on the machine after a delay; at once for 0."""
        if seconds <= 0.0:
            action()
            return
        with self._lock:
            heapq.heappush(self._agenda, (clock.monotonic() + seconds, next(self._order), action))
            if self._clock is None:
                self._clock = threading.Thread(target=self._run, name="memory machine", daemon=True)
                self._clock.start()
            self._changed.notify_all()

    def _run(self) -> None:
        with self._lock:
            while self._agenda:
                due, _, action = self._agenda[0]
                if (pause := due - clock.monotonic()) > 0.0:
                    clock.wait(self._changed, pause)
                else:
                    heapq.heappop(self._agenda)
                    action()
            self._clock = None

    # -- a backend -------------------------------------------------------------------------------------------------

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read PVs; a missing one takes the whole timeout, as on a network."""
        deadline.check("reading")
        with self._changed:
            if not deadline.wait(self._changed, lambda: all(map(self._serves, addresses)), what="reading"):
                waited = f"no answer within {deadline.seconds:g} s: nobody serves it"
                return {
                    a: _own_copy(self._pvs[a.name].reading) if self._serves(a) else PvNotConnected(a.text, waited)
                    for a in addresses
                }
            return {a: _own_copy(self._pvs[a.name].reading) for a in addresses}

    def _serves(self, address: PvAddress) -> bool:
        pv = self._pvs.get(address.name)
        return pv is not None and pv.fault is not Fault.MISSING

    def put_many(
        self, values: Mapping[PvAddress, Any], deadline: Deadline, wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, PutAnswer]:
        """Write PVs; one without an answer takes the whole timeout."""
        answers: dict[PvAddress, PutAnswer] = {}
        with self._changed:
            for address, value in values.items():
                answers[address] = self._put(address, value, deadline)
            if any(a.outcome in (Outcome.UNKNOWN, Outcome.NOT_SENT) for a in answers.values()):
                try:
                    deadline.wait(self._changed, lambda: False, what="putting")
                except CallCancelled:
                    pass
        return answers

    def _put(self, address: PvAddress, value: Any, deadline: Deadline) -> PutAnswer:
        waited = f"no answer within {deadline.seconds:g} s"
        if deadline.expired or not self._serves(address):
            return PutAnswer(Outcome.NOT_SENT, f"{waited}: nobody serves it")
        name, pv, value = address.name, self._pvs[address.name], _own(value)
        self.puts.append((name, value))
        if pv.reading.writable is False or pv.fault is Fault.REFUSED:
            return PutAnswer(Outcome.REFUSED, "write access denied")
        fault, pv.times = (pv.fault if pv.times else None), pv.times - 1 if pv.times > 0 else pv.times
        if fault is Fault.FAILING:
            self._apply(name, value)
            return PutAnswer(Outcome.REFUSED, "its output failed")
        unanswered = PutAnswer(Outcome.UNKNOWN, f"{waited}; it was sent and may have happened, or may still happen")
        if fault is Fault.LOST:
            return unanswered
        if fault is Fault.HALF:
            self._apply(name, (pv.reading.value + value) / 2)
            return unanswered
        self.later(pv.delay if fault in (Fault.DELAYED, Fault.LATE) else 0.0, lambda: self._apply(name, value))
        return unanswered if fault in (Fault.UNANSWERED, Fault.LATE) else PutAnswer(Outcome.APPLIED)

    def _apply(self, name: str, value: Any) -> None:
        pv = self._pvs[name]
        if isinstance(value, Fields):
            value = {**pv.reading.value, **value["value"]} if isinstance(pv.reading.value, dict) else value
        elif isinstance(value, float) and pv.reading.limits:
            # As a record does: clipped to its drive limits without an error.
            low, high = pv.reading.limits.low, pv.reading.limits.high
            value = min(max(value, value if low is None else low), value if high is None else high)
        self.post(name, value)
        for react in list(pv.on_put):
            react(value)

    def snapshot(self, addresses: Sequence[PvAddress], window: float, deadline: Deadline) -> dict[PvAddress, Update]:
        """Read PVs, here really at one instant."""
        return self.get_many(addresses, deadline)

    def monitor(self, address: PvAddress, callback: Callable[[Update], None], queue: int = 16) -> Subscription:
        """Call back with the present value and every change, in the thread that makes it."""
        with self._lock:
            subscription = _Subscription(self._drop, address, callback)
            if address.name in self._pvs:
                self._pvs[address.name].watchers.append(subscription)
                if self._serves(address):
                    subscription.tell(self._pvs[address.name].reading)
            return subscription

    def _drop(self, subscription: _Subscription) -> None:
        """Forget a closed subscription."""
        with self._lock:
            for pv in self._pvs.values():
                if subscription in pv.watchers:
                    pv.watchers.remove(subscription)

    def suspend(self) -> None:
        """Do nothing: memory has no handles."""

    def close(self) -> None:
        """Forget the actions that are still to run."""
        with self._lock:
            self._agenda.clear()
            self._changed.notify_all()

    def before_fork(self) -> None:
        """Lock, so that the child copies a consistent state."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Unlock."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Keep the values only: monitors and pending actions are the parent's."""
        for pv in self._pvs.values():
            pv.watchers.clear()
        self._begin()


class _Subscription:
    def __init__(
        self, drop: Callable[[_Subscription], None], address: PvAddress, callback: Callable[[Update], None]
    ) -> None:
        self._drop, self._address, self._callback = drop, address, callback
        self._closed = False

    def tell(self, update: Update) -> None:
        if self._closed:
            return
        try:
            self._callback(_own_copy(update) if isinstance(update, Reading) else update)
        except Exception:  # a fault of the callback must not end the put that it is told of
            logger.exception("the callback for updates of %s failed", self._address)

    def close(self) -> None:
        """End the subscription. Idempotent."""
        self._closed = True
        self._drop(self)


def _own_copy(reading: Reading) -> Reading:
    return replace(reading, value=_own(reading.value)) if isinstance(reading.value, np.ndarray | dict) else reading


def _own(value: Any) -> Any:
    """Copy a mutable value, which its owner might change later."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return type(value)({name: _own(item) for name, item in value.items()})
    return list(value) if isinstance(value, list) else value
