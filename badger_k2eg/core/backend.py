"""The protocol that every way to reach PVs implements, and the two seams of ``Control`` with their null versions.

Batch calls that block until one absolute deadline, concurrency inside. Every requested address is in the answer. What
goes wrong with one PV is a *value* in the answer, never an exception. Retry lives in ``Control`` alone: a backend
sends each put once. Imports model, deadline and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from .deadline import Deadline
from .errors import PvError
from .model import PutAnswer, PutResult, PvAddress, Reading, SetReport

#: What a monitor hands over: an update, or an error when it is disconnected or refused.
Update = Reading | PvError


class Subscription(Protocol):
    """A live monitor of one PV."""

    def close(self) -> None:
        """End it. Idempotent; no callback begins after it returns."""


class Backend(Protocol):
    """One way to reach PVs. Safe to use from many threads at once."""

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read all at once; what has not answered by the deadline is a PvTimeout or PvNotConnected."""

    def put_many(
        self, values: Mapping[PvAddress, Any], deadline: Deadline, wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, PutAnswer]:
        """Write all at once, each once.

        :param values: plain values in the PV's own type (an enum by index), or ``Fields`` for a structure.
        :param wait: those for which the answer shall come only when the record has finished processing.
        :returns: on a cancelled deadline too: what is on the wire is UNKNOWN, the rest NOT_SENT.
        """

    def monitor(self, address: PvAddress, callback: Callable[[Update], None], queue: int = 16) -> Subscription:
        """Call back with the present value and every update, in order, until closed.

        At least the newest ``queue`` updates are kept while the callback is slow; the last one is never lost.
        A callback may read and put, but should only hand over: it delays the updates of every other PV.
        """

    def snapshot(self, addresses: Sequence[PvAddress], window: float, deadline: Deadline) -> dict[PvAddress, Update]:
        """Read values of one instant (seconds wide), or as close to it as the transport allows."""

    def suspend(self) -> None:
        """Put down every live handle (before a fork); what is used again afterwards is opened again."""

    def close(self) -> None:
        """End for good: calls in flight end at once, with errors."""


def loses_updates(backend: Backend) -> bool:
    """Whether the last update of a monitor may not be what the PV holds (K2EG): read before you believe it."""
    return bool(getattr(backend, "loses_updates", False))


def has_fields(backend: Backend, address: PvAddress) -> bool:
    """Whether the fields of a PV's record (``X.NAME``) can be asked for this way, if it is a record's."""
    told = getattr(type(backend), "has_fields", None)
    return told is not None and bool(told(backend, address))


class Sink(Protocol):
    """Where the record of what was done goes.

    Only ``set_began`` may keep anything from being done; what the others cannot record must not disturb a set.
    """

    def set_began(
        self, before: Mapping[PvAddress, Reading], asked: Mapping[str, Any], validators: Mapping[str, Any]
    ) -> str | None:
        """The guard has let every setpoint of a call pass, and nothing is sent yet; not called in read-only mode.

        :param before: what each PV holds now.
        :param asked: the values of the call, by the caller's keys.
        :param validators: those of the call, by the same keys.
        :returns: why nothing may be sent, if so.
        """

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        """One attempt to write each of these PVs, all sent at once, has ended; of a ramp, ``asked`` is the step."""

    def set_finished(self, report: SetReport) -> None:
        """A whole call has ended, well or not; also one that never began."""

    def read_finished(self, updates: Mapping[str, Update]) -> None:
        """PVs were read for the user, by the keys that were asked for."""


class Gate(Protocol):
    """Who may write now."""

    def writing(self, addresses: Sequence[PvAddress]) -> AbstractContextManager[Mapping[PvAddress, str]]:
        """Hold the right to write these PVs for one call.

        :returns: on entry, ``{address: reason}`` of those that may not be written now; it may grow while the call goes
            on, and what is not sent until then is not sent any more.
        """


class NullSink:
    """Keeps no record."""

    def set_began(
        self, before: Mapping[PvAddress, Reading], asked: Mapping[str, Any], validators: Mapping[str, Any]
    ) -> str | None:
        """Let everything pass."""

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        """Do nothing."""

    def set_finished(self, report: SetReport) -> None:
        """Do nothing."""

    def read_finished(self, updates: Mapping[str, Update]) -> None:
        """Do nothing."""


class NullGate:
    """Lets everybody write."""

    def writing(self, addresses: Sequence[PvAddress]) -> AbstractContextManager[Mapping[PvAddress, str]]:
        """Refuse nobody."""
        return nullcontext({})
