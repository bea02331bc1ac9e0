"""Waiting for updates of PVs: driven by monitors, confirmed by a get where a transport loses updates.

The monitor's thread only hands updates over; conditions are judged in the thread that waits, after every single update.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from ..core.backend import Update
from ..core.deadline import Deadline
from ..core.errors import ConditionNotMet, PvError, read_failure
from ..core.futures import check_waiting
from ..core.model import Reading
from .reader import Reader
from .validator_context import annotated

Condition = Callable[..., Any]

#: Seconds between two looks where a transport loses updates.
_LOOK = 1.0


def wait_until_new(reader: Reader, pvs: Sequence[str], deadline: Deadline) -> dict[str, Reading]:
    """Wait for the first update of any PV that is newer than the call.

    :returns: those that have news, by PV.
    :raises ReadError: when one of them does not answer at all.
    :raises ConditionNotMet: (a TimeoutError) when nothing came in time.
    """
    newest: dict[str, Reading | None] = dict(_began(reader, pvs, deadline))
    lossy = reader.loses_updates
    with _Updates(reader, pvs, deadline) as updates:
        while (news := updates.next(_LOOK if lossy else None)) is not None or not deadline.expired:
            seen = dict([news]) if news else reader.updates(pvs, deadline.child(reader.settings.timeout))
            for pv, update in seen.items():
                if isinstance(update, Reading) and _is_newer(update, newest[pv]):
                    return {pv: update}
                if isinstance(update, Reading) and update.timestamp_ns is None and news:
                    # A subscription begins with the present state; what comes after that is news.
                    newest[pv] = None
    raise ConditionNotMet(f"no update of {', '.join(pvs)} within {deadline.seconds:g} s")


def _is_newer(update: Reading, known: Reading | None) -> bool:
    if known is None:
        return True
    return update.timestamp_ns is not None and update.timestamp_ns > (known.timestamp_ns or 0)


def wait_until(
    reader: Reader, condition: Condition, pvs: Sequence[str], single: bool, deadline: Deadline, wanted: bool = True
) -> dict[str, Reading]:
    """Wait until a condition is true, or with ``wanted=False`` until it is not.

    :param single: give it the one value itself, not a dict by PV.
    :returns: the readings by which it was so.
    :raises ReadError: when a PV does not answer at all.
    :raises ConditionNotMet: (a TimeoutError) with what the PVs read last.
    """
    judge = _judge(condition, single)
    lossy = reader.loses_updates
    readings: dict[str, Update] = dict(_began(reader, pvs, deadline))
    if bool(judge(readings)) is wanted:
        return readings  # type: ignore[return-value] # complete
    with _Updates(reader, pvs, deadline) as updates:
        while True:
            # Where updates get lost, the last one too, a look now and then is all that helps.
            news = updates.next(_LOOK if lossy else None)
            if news is None and deadline.expired:
                what = f"{'until' if wanted else 'while'} {_name(condition)}"
                raise ConditionNotMet(f"waited {deadline.seconds:g} s {what}: {_shown(readings)}")
            if news is not None:
                if _is_older(news[1], readings[news[0]]):
                    continue
                readings[news[0]] = news[1]
            if news is None or (_complete(readings) and bool(judge(readings)) is wanted):
                if not lossy:
                    return readings  # type: ignore[return-value] # complete
                readings = reader.updates(pvs, deadline.child(reader.settings.timeout))
                if _complete(readings) and bool(judge(readings)) is wanted:
                    return readings  # type: ignore[return-value] # complete


def _is_older(update: Update, known: Update) -> bool:
    """Return whether an update of a subscription is older than the read that the wait began with."""
    if not isinstance(update, Reading) or not isinstance(known, Reading):
        return False
    return update.timestamp_ns is not None and update.timestamp_ns < (known.timestamp_ns or 0)


def _judge(condition: Condition, single: bool) -> Callable[[Mapping[str, Update]], Any]:
    if not callable(condition):
        raise TypeError(f"a condition is a function, of the values or of nothing, not {condition!r}")
    try:
        inspect.signature(condition).bind()
    except (TypeError, ValueError):
        takes_values = True
    else:
        takes_values = False

    def judge(readings: Mapping[str, Update]) -> Any:
        if not takes_values:
            return condition()
        values = {pv: annotated(reading) for pv, reading in readings.items() if isinstance(reading, Reading)}
        return condition(next(iter(values.values())) if single else values)

    return judge


def _complete(readings: Mapping[str, Update]) -> bool:
    return all(isinstance(update, Reading) for update in readings.values())


def _name(condition: Condition) -> str:
    return str(getattr(condition, "__qualname__", condition)).rpartition("<locals>.")[2]


def _shown(readings: Mapping[str, Update]) -> str:
    return ", ".join(
        str(update) if isinstance(update, PvError) else f"{pv} reads {update.plain!r}"
        for pv, update in readings.items()
    )


def _began(reader: Reader, pvs: Sequence[str], deadline: Deadline) -> dict[str, Reading]:
    """Read the state that the wait begins with.

    :raises ReadError: when a PV does not answer within the interface's timeout, however long the wait may be.
    """
    if not pvs:
        raise ValueError("there is nothing to wait for: name at least one PV")
    check_waiting("waiting for updates")
    updates = reader.updates(list(pvs), deadline.child(reader.settings.timeout))
    errors = {pv: update for pv, update in updates.items() if isinstance(update, PvError)}
    readings = {pv: update for pv, update in updates.items() if isinstance(update, Reading)}
    if errors:
        raise read_failure(errors, readings)
    return readings


class _Updates:
    """The updates of some PVs, in order, for the thread that waits for them."""

    def __init__(self, reader: Reader, pvs: Sequence[str], deadline: Deadline) -> None:
        self._reader, self._pvs, self._deadline = reader, list(dict.fromkeys(pvs)), deadline
        self._changed = threading.Condition()
        self._news: deque[tuple[str, Update]] = deque()
        self._open = ExitStack()

    def __enter__(self) -> _Updates:
        with self._open:
            # Closing the interface ends the wait.
            self._open.callback(self._reader.life.on_cancel(self._deadline.cancel))
            for pv in self._pvs:
                subscription = self._reader.monitor(pv, partial(self._hear, pv))
                self._open.callback(subscription.close)
            self._open = self._open.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()
        self._reader.subscriptions.prune()

    def _hear(self, pv: str, update: Update) -> None:
        with self._changed:
            self._news.append((pv, self._reader.judged(pv, update)))
            self._changed.notify_all()

    def next(self, within: float | None = None) -> tuple[str, Update] | None:
        """Wait for the next update, and return it with its PV; None when the time is over.

        :param within: seconds of it; None is all that is left.
        :raises CallCancelled: when the wait was cancelled.
        """
        end = self._deadline if within is None else self._deadline.child(within)
        with self._changed:
            if not end.wait(self._changed, lambda: bool(self._news), what="waiting"):
                return None
            return self._news.popleft()
