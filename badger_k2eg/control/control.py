"""``Control``: the facade of this room: every read, and the only path to a put. One for each interface."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from glob import escape
from typing import Any, TypeVar, overload

from ..core import futures
from ..core.backend import Backend, Gate, NullGate, NullSink, Sink, Subscription, Update
from ..core.deadline import FOREVER, Deadline, in_seconds
from ..core.errors import CallCancelled, PvError, read_failure
from ..core.futures import ABSENT, Absent, Callback, Future, Time
from ..core.model import PvAddress, Reading, SetReport, plain
from ..core.settings import Settings
from .arrival import Arrival
from .capacity import Capacities
from .guard import Guard
from .procedure_calls import SynchronousCalls
from .put import Put
from .rates import Failures, Pacer
from .read_back import ReadBack
from .reader import Reader
from .record_names import RecordNames
from .set_call import SetCall
from .validator_context import ValidatorContext

logger = logging.getLogger("badger_k2eg")

T = TypeVar("T")


class Control(SynchronousCalls):
    """The reads and the sets of one interface: guarded, validated, recorded and reported.

    Safe to use from many threads. Nothing happens in the constructor.

    :param backend: the way to the PVs.
    :param settings: what is in force.
    :param sink: where the record of what was done goes.
    :param gate: who may write now.
    :param reader: in the place of one of its own for this backend and these settings.

    :ivar reader: its reads, for code that must not set.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings | None = None,
        *,
        sink: Sink | None = None,
        gate: Gate | None = None,
        reader: Reader | None = None,
    ) -> None:
        """Keep the parts."""
        self.backend = backend
        self.settings = settings or Settings()
        self.reader = reader or Reader(backend, self.settings)
        self.sink: Sink = sink or NullSink()
        self.gate: Gate = gate or NullGate()
        self.context = ValidatorContext(self.reader, self.set)
        self.capacities = Capacities()
        self.record_names = RecordNames()
        self.pacer = Pacer(self.settings)
        self.failures = Failures(self.settings.max_failures)
        #: How far from the value asked a setpoint may rest, by its own name: what knobs declare of their records.
        #: Beside the option ``put_tolerance``; the wider of the two counts.
        self.tolerances: dict[str, float] = {}
        #: What became of the last set, also when it raised.
        self.last_report: SetReport | None = None
        #: How many calls to set one PV or more have ended, in whatever way.
        self.sets = 0

    # -- writing ------------------------------------------------------------------------------------------------

    @overload
    def set(
        self,
        values: Mapping[str, Any],
        validators: Mapping[str, Any] | None = ...,
        *,
        deadline: Deadline | None = ...,
        timeout: Time = ...,
        complete: Collection[str] = ...,
        commands: Collection[str] = ...,
    ) -> SetReport: ...
    @overload
    def set(
        self,
        values: Mapping[str, Any],
        validators: Mapping[str, Any] | None = ...,
        *,
        deadline: Deadline | None = ...,
        timeout: Time = ...,
        callback: Callback | None,
        complete: Collection[str] = ...,
        commands: Collection[str] = ...,
    ) -> Future[SetReport]: ...
    def set(
        self,
        values: Mapping[str, Any],
        validators: Mapping[str, Any] | None = None,
        *,
        deadline: Deadline | None = None,
        timeout: Time = None,
        callback: Callback | Absent | None = ABSENT,
        complete: Collection[str] = (),
        commands: Collection[str] = (),
    ) -> SetReport | Future[SetReport]:
        """Set PVs, and wait until each has arrived where it has a validator.

        :param values: ``{pv: value}`` in the caller's order; an enum by index or label, a table by
            ``{column: values}``; a Quantity is converted into the PV's unit, a number is taken in it.
        :param validators: ``{set pv: validator}``; those of PVs that are not set here are not used.
        :param deadline: ends the whole call earlier, or cancels it.
        :param timeout: seconds (or a Quantity) for the whole call, and for validators without a time of their own;
            None or -1 leaves it to the attempts' own timeouts.
        :param callback: given or None, a Future is returned at once; see ``core.futures``.
        :param complete: PVs whose put is answered only when the record has finished processing.
        :param commands: PVs that are never sent twice (as option ``relative``).
        :returns: what became of each.
        :raises SetpointBlocked: when the guard refuses one of them: nothing was sent.
        :raises SetError: PutTimeout, PutUnknown, PutRefused, PutMismatch or ValidationFailed, by the first PV that
            did not end as asked; its ``report`` tells of all.
        :raises CallCancelled: when the deadline was cancelled.
        """
        seconds = FOREVER if timeout is None else in_seconds(timeout)
        settings = self.settings
        if complete or commands:
            added = {"wait": settings.wait + _exactly(complete), "relative": settings.relative + _exactly(commands)}
            settings = settings.model_copy(update=added if timeout is None else added | {"timeout": seconds})
        patience = settings.timeout if seconds == FOREVER else seconds
        return self._begin(  # type: ignore[no-any-return] # by the overloads
            lambda end: self._set(values, validators or {}, end, settings, patience), seconds, deadline, callback, "set"
        )

    def _begin(
        self,
        work: Callable[[Deadline], T],
        seconds: float,
        deadline: Deadline | None,
        callback: Callback | Absent | None,
        name: str,
    ) -> Any:
        """Run a call here, or in the background."""
        if callback is ABSENT and deadline is not None:
            return work(deadline if seconds == FOREVER else deadline.child(seconds))
        return futures.call(lambda: work(Deadline(seconds)), callback, parent=deadline or self.life, name=name)

    def _set(
        self,
        values: Mapping[str, Any],
        validators: Mapping[str, Any],
        deadline: Deadline,
        settings: Settings,
        patience: float,
    ) -> SetReport:
        call = self._call(values, validators, deadline, settings, patience)
        try:
            with self.failures.counted() as paused:
                return call.run(paused)
        except CallCancelled as error:
            error.report = call.report()
            raise
        finally:
            self.last_report = call.report()
            self.sets += bool(self.last_report.results)
            self.sink.set_finished(self.last_report)

    def _call(
        self,
        values: Mapping[str, Any],
        validators: Mapping[str, Any],
        deadline: Deadline,
        settings: Settings,
        patience: float,
    ) -> SetCall:
        """Make a set call of its parts, with the settings of that call.

        :param patience: seconds that a validator without a time of its own waits.
        """
        return SetCall(
            values,
            validators,
            guard=Guard(self.reader, self.record_names, self.capacities, self.tolerance_of, deadline, settings),
            put=Put(self.reader, self.pacer, self.sink, deadline, settings),
            read_back=ReadBack(self.reader, deadline, settings),
            arrival=Arrival(self.reader, self.context, deadline, settings, patience),
            gate=self.gate,
            sink=self.sink,
            deadline=deadline,
            settings=settings,
            last=self.last_report,
        )

    def ended(self, report: SetReport) -> None:
        """Record a move that was made of several sets and ended between them."""
        self.last_report = report
        self.sink.set_finished(report)

    # What SynchronousCalls stands on.

    @property
    def _reader(self) -> Reader:
        return self.reader

    def _put(self, values: Mapping[str, Any], validators: Mapping[str, Any], **how: Any) -> Any:
        return self.set(values, validators, **how)

    def _get_one(self, pv: str, timeout: Time) -> Any:
        return self.get([pv], timeout=timeout)[pv]

    def check(
        self,
        values: Mapping[str, Any],
        *,
        read: Mapping[PvAddress, Update] | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        """Check setpoints by the guard, and send nothing.

        :param read: what they were just read to hold; without it, they are read here.
        :raises SetpointBlocked: when one of them would be refused.
        """
        self._call(values, {}, deadline or Deadline(), self.settings, self.settings.timeout).check(read or {})

    def tolerance_of(self, address: PvAddress) -> float:
        """Return how far from the value asked a setpoint may rest, in its unit."""
        declared = max(self.tolerances.get(name, 0.0) for name in address.names)
        return max(declared, self.settings.tolerance_of(address))

    def resume(self) -> None:
        """Allow setting again after a pause for failures."""
        self.failures.reset()

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def life(self) -> Deadline:
        """What ends when this is closed: waits, and what runs in the background."""
        return self.reader.life

    def updates(self, names: Iterable[str], deadline: Deadline | None = None) -> dict[str, Update]:
        """Read PVs: for each key a Reading, or the PvError that says why there is none. Raises nothing."""
        return self.reader.updates(names, deadline)

    def snapshot(
        self, names: Iterable[str], window: float = 0.0, deadline: Deadline | None = None
    ) -> dict[str, Update]:
        """Read values of one instant (``window`` seconds wide), as far as the transport can; else as ``updates``."""
        return self.reader.snapshot(names, window, deadline)

    def judged(self, name: str, update: Update) -> Update:
        """Return an update, or a PvInvalid where the settings do not take it for a reading (UDF, INVALID)."""
        return self.reader.judged(name, update)

    def monitor(self, name: str, callback: Callable[[Update], None]) -> Subscription:
        """Call back with the present value and every update of a PV until closed.

        :raises PvNameError: for a malformed name.
        """
        return self.reader.monitor(name, callback)

    @overload
    def read(
        self, names: Iterable[str], deadline: Deadline | None = ..., *, timeout: Time = ...
    ) -> dict[str, Reading]: ...
    @overload
    def read(
        self, names: Iterable[str], deadline: Deadline | None = ..., *, timeout: Time = ..., callback: Callback | None
    ) -> Future[dict[str, Reading]]: ...
    def read(
        self,
        names: Iterable[str],
        deadline: Deadline | None = None,
        *,
        timeout: Time = None,
        callback: Callback | Absent | None = ABSENT,
    ) -> dict[str, Reading] | Future[dict[str, Reading]]:
        """Read PVs with all that comes with their values.

        :param deadline: ends the call, or cancels it.
        :param timeout: seconds, or a Quantity; None takes the interface's where there is no deadline; -1 is for ever.
        :param callback: given or None, a Future is returned at once; see ``core.futures``.
        :raises ReadError: (ReadTimeout, InvalidReading) by the first that cannot be read; ``.partial`` has the others.
        """
        names = list(names)
        seconds = self._patience(timeout, deadline)
        return self._begin(  # type: ignore[no-any-return] # by the overloads
            lambda end: self._complete(self._heard(names, end), lambda reading: reading),
            seconds, deadline, callback, "read",
        )  # fmt: skip

    @overload
    def get(self, names: Iterable[str], deadline: Deadline | None = ..., *, timeout: Time = ...) -> dict[str, Any]: ...
    @overload
    def get(
        self, names: Iterable[str], deadline: Deadline | None = ..., *, timeout: Time = ..., callback: Callback | None
    ) -> Future[dict[str, Any]]: ...
    def get(
        self,
        names: Iterable[str],
        deadline: Deadline | None = None,
        *,
        timeout: Time = None,
        callback: Callback | Absent | None = ABSENT,
    ) -> dict[str, Any] | Future[dict[str, Any]]:
        """Read plain values of builtin Python types; arrays are lists, an enum is its index. Otherwise as ``read``.

        :raises ReadError: unless ``on_read_error`` is ``nan``: then what cannot be read is NaN.
        """
        names = list(names)
        seconds = self._patience(timeout, deadline)
        return self._begin(lambda end: self._get(names, end), seconds, deadline, callback, "get")  # type: ignore[no-any-return] # by the overloads

    def _get(self, names: Sequence[str], deadline: Deadline) -> dict[str, Any]:
        updates = self._heard(names, deadline)
        if self.settings.on_read_error == "nan":
            for update in updates.values():
                if isinstance(update, PvError):
                    logger.warning("%s: no reading, NaN in its place", update)
                    self.failures.failed()
            return {n: plain(u.value) if isinstance(u, Reading) else math.nan for n, u in updates.items()}
        return self._complete(updates, lambda reading: reading.plain)

    def _patience(self, timeout: Time, deadline: Deadline | None) -> float:
        if timeout is not None:
            return in_seconds(timeout)
        return FOREVER if deadline is not None else self.settings.timeout

    def _heard(self, names: Sequence[str], deadline: Deadline) -> dict[str, Update]:
        updates = self.updates(names, deadline)
        self.sink.read_finished(updates)
        return updates

    def _complete(self, updates: Mapping[str, Update], form: Callable[[Reading], Any]) -> dict[str, Any]:
        errors = {name: update for name, update in updates.items() if isinstance(update, PvError)}
        values = {name: form(update) for name, update in updates.items() if isinstance(update, Reading)}
        if not errors:
            return values
        self.failures.failed()
        raise read_failure(errors, values)

    def close(self) -> None:
        """End every subscription, wait and call in the background; the backend is its owner's to close."""
        self.reader.close()


def _exactly(names: Iterable[str]) -> tuple[str, ...]:
    """Return patterns that match these PVs alone."""
    return tuple(escape(PvAddress.parse(name).own_name) for name in names)
