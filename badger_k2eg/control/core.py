"""``Control``: every read, and the only path to a put. One for each interface; its options are its own."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .. import fork, synchronized
from ..backend import Backend, Gate, NullGate, NullSink, Sink, Subscription, Update
from ..deadline import Deadline
from ..errors import CallCancelled, PvError, PvInvalid, read_failure
from ..model import PvAddress, Reading, SetReport, plain
from ..policy import not_a_reading
from ..settings import Settings
from .call import SetCall
from .capacity import Capacities
from .context import ControlContext
from .feeds import Feeds

logger = logging.getLogger("badger_k2eg")


class Control:
    """Guards, writes, validates, records and reports; and reads.

    Safe to use from many threads. Nothing happens in the constructor.

    :param backend: the way to the PVs.
    :param settings: what is in force.
    :param sink: where the record of what was done goes.
    :param gate: who may write now.
    """

    def __init__(
        self, backend: Backend, settings: Settings | None = None, *, sink: Sink | None = None, gate: Gate | None = None
    ) -> None:
        """Keep the parts."""
        self.backend = backend
        self.settings = settings or Settings()
        self.sink: Sink = sink or NullSink()
        self.gate: Gate = gate or NullGate()
        self.context = ControlContext(self)
        self.feeds = Feeds(backend)
        self.capacities = Capacities()
        self.pacer = Pacer(self.settings)
        self.failures = Failures(self.settings.max_failures)
        #: What became of the last set, also when it raised.
        self.last_report: SetReport | None = None

    # -- writing ------------------------------------------------------------------------------------------------

    def set(
        self,
        values: Mapping[str, Any],
        validators: Mapping[str, Any] | None = None,
        *,
        deadline: Deadline | None = None,
    ) -> SetReport:
        """Set PVs, and wait until each has arrived where it has a validator.

        :param values: ``{pv: value}`` in the caller's order; an enum by index or label, a table by
            ``{column: values}``.
        :param validators: ``{set pv: validator}``; those of PVs that are not set here are not used.
        :param deadline: ends the whole call earlier, or cancels it.
        :returns: what became of each.
        :raises SetpointBlocked: when the guard refuses one of them: nothing was sent.
        :raises SetError: PutTimeout, PutUnknown, PutRefused, PutMismatch or ValidationFailed, by the first PV that
            did not end as asked; its ``report`` tells of all.
        :raises CallCancelled: when the deadline was cancelled.
        """
        call = SetCall(self, values, validators or {}, deadline or Deadline(), self.last_report)
        paused = self.failures.begin()
        try:
            return call.run(paused)
        except BaseException as error:
            self.failures.failed()
            if isinstance(error, CallCancelled):
                error.report = call.report()
            raise
        finally:
            self.last_report = call.report()
            self.sink.set_finished(self.last_report)

    def check(self, values: Mapping[str, Any], *, deadline: Deadline | None = None) -> None:
        """Let the guard look at setpoints, and send nothing.

        :raises SetpointBlocked: when one of them would be refused.
        """
        SetCall(self, values, {}, deadline or Deadline(), None).check()

    def resume(self) -> None:
        """Go on setting after a pause for failures."""
        self.failures.reset()

    # -- reading ------------------------------------------------------------------------------------------------

    def updates(self, names: Iterable[str], deadline: Deadline | None = None) -> dict[str, Update]:
        """Read PVs: for each key a Reading, or the PvError that says why there is none. Raises nothing."""
        answers: dict[str, Update] = {}
        addresses: dict[str, PvAddress] = {}
        for name in names:
            try:
                addresses[name] = PvAddress.parse(name)
            except PvError as error:
                answers[name] = error
        if addresses:
            wanted = list(dict.fromkeys(addresses.values()))
            updates = self.backend.get_many(wanted, deadline or Deadline(self.settings.timeout))
            answers.update({name: self._judged(name, updates[address]) for name, address in addresses.items()})
        return {name: answers[name] for name in names}

    def _judged(self, name: str, update: Update) -> Update:
        if isinstance(update, Reading) and (reason := not_a_reading(update, self.settings)) is not None:
            return PvInvalid(name, reason)
        return update

    def read(self, names: Iterable[str], deadline: Deadline | None = None) -> dict[str, Reading]:
        """Read PVs with all that comes with their values.

        :raises ReadError: (ReadTimeout, InvalidReading) by the first that cannot be read; ``.partial`` has the others.
        """
        return self._complete(self.updates(list(names), deadline), lambda reading: reading)

    def get(self, names: Iterable[str], deadline: Deadline | None = None) -> dict[str, Any]:
        """Read plain values of builtin Python types; arrays are lists, an enum is its index.

        :raises ReadError: unless ``on_read_error`` is ``nan``: then what cannot be read is NaN.
        """
        updates = self.updates(list(names), deadline)
        if self.settings.on_read_error == "nan":
            for update in updates.values():
                if isinstance(update, PvError):
                    logger.warning("%s: no reading, NaN in its place", update)
                    self.failures.failed()
            return {n: plain(u.value) if isinstance(u, Reading) else math.nan for n, u in updates.items()}
        return self._complete(updates, lambda reading: reading.plain)

    def _complete(self, updates: Mapping[str, Update], form: Callable[[Reading], Any]) -> dict[str, Any]:
        errors = {name: update for name, update in updates.items() if isinstance(update, PvError)}
        values = {name: form(update) for name, update in updates.items() if isinstance(update, Reading)}
        if not errors:
            return values
        self.failures.failed()
        raise read_failure(errors, values)

    def monitor(self, name: str, callback: Callable[[Update], None]) -> Subscription:
        """Call back with the present value and every update of a PV until closed.

        :raises PvNameError: for a malformed name.
        """
        return self.feeds.attach(PvAddress.parse(name), callback)

    def close(self) -> None:
        """End every subscription; the backend is its owner's to close."""
        self.feeds.close()


class Pacer:
    """Holds puts back: least interval between two to one PV, most per second in all."""

    def __init__(self, settings: Settings) -> None:
        """Take the two rates."""
        self._interval = settings.put_interval
        self._rate = settings.put_rate
        self._last: dict[str, float] = {}
        self._recent: deque[float] = deque()
        self._lock = fork.Lock()

    @property
    def one_by_one(self) -> bool:
        """Whether a batch must be taken apart, because all of it at once would be too many."""
        return self._rate is not None

    def wait(self, names: Iterable[str], deadline: Deadline) -> None:
        """Wait until these may be sent, and count them as sent.

        :raises CallCancelled: when the deadline is cancelled meanwhile.
        """
        while (pause := self._claim(list(names))) > 0.0:
            synchronized.sleep(pause, deadline)
            if deadline.expired:
                return

    def _claim(self, names: list[str]) -> float:
        if not self._interval and self._rate is None:
            return 0.0
        with self._lock:
            now = time.monotonic()
            due = [self._last[name] + self._interval for name in names if name in self._last]
            if self._rate is not None:
                while self._recent and self._recent[0] <= now - 1.0:
                    self._recent.popleft()
                if self._rate < 1.0 and self._last:
                    due.append(max(self._last.values()) + 1.0 / self._rate)
                elif len(self._recent) + len(names) > max(1.0, self._rate):
                    due.append(self._recent[0] + 1.0)
            if (pause := max(due, default=now) - now) > 0.0:
                return pause
            for name in names:
                self._last[name] = now
                self._recent.append(now)
            return 0.0


class Failures:
    """Counts failed evaluations in a row. A set begins one; a failing set or read makes it a failed one."""

    def __init__(self, most: int | None) -> None:
        """Take the number from which on setting pauses; None never pauses."""
        self._most = most
        self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        self._count = 0
        self._this_failed = False

    def begin(self) -> str | None:
        """Begin an evaluation; says why it must not, when too many have failed."""
        if self._most is not None and self._count >= self._most:
            return (
                f"paused after {self._count} failed evaluations in a row (option max_failures); see to it, then reset"
            )
        if not self._this_failed:
            self._count = 0
        self._this_failed = False
        return None

    def failed(self) -> None:
        """Mark the present evaluation as failed."""
        if not self._this_failed:
            self._this_failed = True
            self._count += 1
