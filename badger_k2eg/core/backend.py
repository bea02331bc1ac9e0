"""``Backend``, the protocol of every transport to PVs, and ``Control``'s sink and gate with their null versions.

The calls are batches that block until one absolute deadline, with the concurrency inside. The answer has every
requested address. What goes wrong with one PV is a *value* in the answer, never an exception. Only ``Control``
retries: a backend sends each put once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from .deadline import Deadline
from .errors import PvError
from .model import PutAnswer, PutResult, PvAddress, Reading, SetReport

#: What a monitor calls back with: a reading, or an error if the PV is disconnected or the monitor refused.
Update = Reading | PvError


class Subscription(Protocol):
    """A live monitor of one PV."""

    def close(self) -> None:
        """End it. Idempotent; no callback begins after it returns."""


class Backend(Protocol):
    """A transport to PVs. Safe to use from many threads at once."""

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read all PVs at once; one that has not answered by the deadline is a PvTimeout or PvNotConnected."""

    def put_many(
        self, values: Mapping[PvAddress, Any], deadline: Deadline, wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, PutAnswer]:
        """Write all PVs at once, each once.

        :param values: plain values in the PV's own type (an enum by index), or ``Fields`` for a structure.
        :param wait: those whose answer must not come before the record has finished processing.
        :returns: also on a cancelled deadline: what is on the wire is UNKNOWN, the rest NOT_SENT.
        """

    def monitor(self, address: PvAddress, callback: Callable[[Update], None], queue: int = 16) -> Subscription:
        """Call back with the current value and every update, in order, until closed.

        While the callback is slow, at least the newest ``queue`` updates are kept; the last one is never lost.
        A callback may read and put, but should only pass the update on: it delays the updates of every other PV.
        """

    def snapshot(self, addresses: Sequence[PvAddress], window: float, deadline: Deadline) -> dict[PvAddress, Update]:
        """Read values of one instant (seconds wide), or as close to it as the transport allows."""

    def suspend(self) -> None:
        """Close every live handle, before a fork; they are opened again at the next use."""

    def close(self) -> None:
        """Close for good: calls in flight end at once, with errors."""


def loses_updates(backend: Backend) -> bool:
    """Return whether the last update of a monitor may be outdated (K2EG), so that a read has to confirm it."""
    return bool(getattr(backend, "loses_updates", False))


def has_fields(backend: Backend, address: PvAddress) -> bool:
    """Return whether the backend can read the fields of the PV's record (``X.NAME``), if it is a record's PV."""
    told = getattr(type(backend), "has_fields", None)
    return told is not None and bool(told(backend, address))


class Sink(Protocol):
    """Where ``Control`` records what it does.

    Only ``set_began`` may prevent a set; a failure of the others to record must not disturb one.
    """

    def set_began(
        self, before: Mapping[PvAddress, Reading], asked: Mapping[str, Any], validators: Mapping[str, Any]
    ) -> str | None:
        """Record that a call passed the guard and sends its setpoints next; not called in read-only mode.

        :param before: the reading of each PV now.
        :param asked: the values of the call, by the caller's keys.
        :param validators: those of the call, by the same keys.
        :returns: the reason why nothing may be sent; None lets the call go on.
        """

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        """Record the end of one attempt to write these PVs, all sent at once; in a ramp, ``asked`` is the step."""

    def set_finished(self, report: SetReport) -> None:
        """Record the end of a call, successful or not, also of one that was blocked."""

    def read_finished(self, updates: Mapping[str, Update]) -> None:
        """Record a read for the user, by the keys that were asked for."""


class Gate(Protocol):
    """Decides who may write now."""

    def writing(self, addresses: Sequence[PvAddress]) -> AbstractContextManager[Mapping[PvAddress, str]]:
        """Hold the right to write these PVs for one call.

        :returns: on entry, ``{address: reason}`` of those that may not be written now; it may grow during the call, and
            what was not sent before is then not sent any more.
        """


class NullSink:
    """A sink that records nothing."""

    def set_began(
        self, before: Mapping[PvAddress, Reading], asked: Mapping[str, Any], validators: Mapping[str, Any]
    ) -> str | None:
        """Allow every call."""

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        """Do nothing."""

    def set_finished(self, report: SetReport) -> None:
        """Do nothing."""

    def read_finished(self, updates: Mapping[str, Update]) -> None:
        """Do nothing."""


class NullGate:
    """A gate that is open to all."""

    def writing(self, addresses: Sequence[PvAddress]) -> AbstractContextManager[Mapping[PvAddress, str]]:
        """Allow every PV."""
        return nullcontext({})
