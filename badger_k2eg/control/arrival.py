"""Waiting for the machine to arrive: readbacks are watched together, foreign validators run in threads of their own.

Watches start before the put, so that no update between the two is lost, and are judged after it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from ..core import clock
from ..core.backend import Subscription, Update
from ..core.deadline import Deadline, under
from ..core.errors import CallCancelled, PvNameError, ValidationFailed, ValidatorCrashed
from ..core.futures import asked_by, asker, check_waiting
from ..core.model import PvAddress
from ..core.settings import Settings, matches
from .put_rules import not_a_reading, same
from .reader import Reader
from .setpoint import Setpoint
from .validator_context import ValidatorContext
from .validators import AllOf, Watch, name_of

# Seconds for a subscription to tell of itself; then its PV is read.
_FIRST_PATIENCE = 0.3
# Seconds after the end of a call for foreign validators.
_GRACE = 0.3


class Arrival:
    """The watches and validators of one call."""

    def __init__(
        self, reader: Reader, context: ValidatorContext, deadline: Deadline, settings: Settings, patience: float
    ) -> None:
        """Watch nothing yet.

        :param context: for foreign validators.
        :param deadline: of the call.
        :param settings: of the call.
        :param patience: seconds that a validator without a time of its own waits.
        """
        self._reader = reader
        self._context = context
        self._deadline = deadline
        self._settings = settings
        self._patience = patience
        self._subscriptions: list[Subscription] = []
        # What happened, by setpoint; None wakes the waiting thread without saying anything.
        self._news: queue.SimpleQueue[Setpoint | None] = clock.simple_queue()
        #: Which validators cannot be used, and why; known from ``watch`` on.
        self.unusable: dict[Setpoint, str] = {}

    def watch(self, setpoints: Iterable[Setpoint]) -> None:
        """Start watching the readback of each setpoint that has a shipped validator."""
        for setpoint in setpoints:
            if not isinstance(setpoint.validator, AllOf):
                continue
            check_waiting(f"waiting for the readback of {setpoint.key}")
            for part in setpoint.validator.parts:
                try:
                    address = PvAddress.parse(part.pv)
                    watch = Watch(
                        part,
                        setpoint.key,
                        # A quantity's own number stands in until the PV's unit is known (Setpoint.settle_unit).
                        getattr(setpoint.value, "magnitude", setpoint.value),
                        self._patience,
                        changed=partial(self._news.put, setpoint),
                        judge=lambda reading: not_a_reading(reading, self._settings),
                    )
                except PvNameError as error:
                    self.unusable[setpoint] = f"its readback {error}"
                except ValueError as error:
                    self.unusable[setpoint] = str(error)
                else:
                    setpoint.watches.append(watch)
                    self._subscriptions.append(self._reader.monitor(address, watch.update))

    def missing(self, setpoints: Iterable[Setpoint], deadline: Deadline) -> dict[Setpoint, str]:
        """Wait for a first value of every readback, and return those that do not answer, with the reason."""
        waiting = [(s, watch) for s in setpoints for watch in s.watches if not watch.known]
        soon = deadline.child(_FIRST_PATIENCE)
        with _wakes(deadline, self._news):
            while waiting and not soon.expired:
                try:
                    self._news.get(timeout=_bounded(soon.remaining()))
                except queue.Empty:
                    continue
                waiting = [(s, watch) for s, watch in waiting if not watch.known]
        # A subscription may be long in finding a server that was started again; a read finds it at once.
        self._read([watch for _, watch in waiting], deadline)
        waiting = [(s, watch) for s, watch in waiting if not watch.known]
        return {s: f"its readback {w.validator.pv} does not answer (waited {deadline.seconds:g} s)" for s, w in waiting}

    def arm(self, setpoints: Iterable[Setpoint]) -> None:
        """Count what the readbacks show from now on: the puts are done."""
        for setpoint in setpoints:
            if isinstance(setpoint.validator, AllOf):
                slowest = setpoint.validator.rise
                for watch in setpoint.watches:
                    rise = self._still_to_rise(setpoint, watch.validator.rise)
                    watch.arm(self._deadline, grace=slowest, rise=rise)

    def _still_to_rise(self, setpoint: Setpoint, rise: float) -> float:
        """Return the seconds that a flag may still take to rise.

        Where the setpoint held the very value before, this put moves nothing; the one that brought it there may be too
        young for its move to show. The record's time tells; without one, or with one of the future, nothing is known.
        """
        is_relative = matches(setpoint.address, self._settings.relative)
        if not rise or is_relative or not same(before := setpoint.before, setpoint.value):
            return rise
        age = 0.0 if before is None or before.timestamp_ns is None else (clock.time_ns() - before.timestamp_ns) * 1e-9
        return min(rise, max(0.0, rise - age))

    def wait(self, setpoints: Sequence[Setpoint], beside: Collection[PvAddress] = ()) -> Mapping[PvAddress, Update]:
        """Wait for all of them together, each for as long as its validator says.

        :param beside: PVs that somebody wants to read when all have arrived.
        :returns: what these read, where the last readbacks had to be read and these could be read with them.
        :raises CallCancelled: when the call is cancelled meanwhile.
        """
        watched = [s for s in setpoints if s.watches]
        foreign = [s for s in setpoints if not s.watches]
        if len(setpoints) == 1 and foreign:
            self._call(foreign[0])
            return {}
        running = set(foreign)
        for setpoint in foreign:
            threading.Thread(
                target=self._call_aside, args=(setpoint, asker()), name=f"validate {setpoint.key}", daemon=True
            ).start()
        due = dict.fromkeys(watched, 0.0)
        with _wakes(self._deadline, self._news):
            while due or running:
                self._deadline.check("validation")
                now = clock.monotonic()
                ready = [s for s, at in due.items() if at <= now]
                sure, read = self._confirm(ready, beside if len(ready) == len(due) and not running else ())
                for setpoint in ready:
                    if self._decided(setpoint, sure):
                        del due[setpoint]
                    else:
                        rests = (
                            0.0 if self._is_doubtful(w) and w not in sure else w.time_left() for w in setpoint.watches
                        )
                        due[setpoint] = clock.monotonic() + min(rests)
                # A foreign one may hang; a call of this package that it waits in ends with the set, and tells more.
                over = self._deadline.expires + _GRACE
                if running and clock.monotonic() > over:
                    words = f"its validator has not ended within the call's {self._deadline.seconds:g} s"
                    for setpoint in running:
                        self._failed(setpoint, TimeoutError(words))
                    running.clear()
                if not due and not running:
                    return read
                pause = min([*due.values(), over, now + 3600.0]) - clock.monotonic()
                try:
                    heard = {self._news.get(timeout=_bounded(pause))}
                except queue.Empty:
                    continue
                # What has come in meanwhile is looked at together.
                while not self._news.empty():
                    heard.add(self._news.get())
                for news in heard:
                    if news in due:
                        due[news] = 0.0
                    elif news in running and news.ended:
                        running.discard(news)
        return {}

    def _confirm(
        self, setpoints: Iterable[Setpoint], beside: Collection[PvAddress]
    ) -> tuple[set[Watch], Mapping[PvAddress, Update]]:
        """Read what seems to have arrived, but has said nothing since the put: its server may be gone or frozen.

        And all that seems to have arrived, where the last update of a monitor may be missing.

        :returns: which readbacks were read, and what all that was read reads.
        """
        silent = {w for s in setpoints for w in s.watches if self._is_doubtful(w)}
        return silent, self._read(list(silent), self._deadline.child(self._patience), beside)

    def _is_doubtful(self, watch: Watch) -> bool:
        return watch.settled() and (not watch.heard or self._reader.loses_updates)

    def _read(
        self, watches: Sequence[Watch], deadline: Deadline, beside: Collection[PvAddress] = ()
    ) -> Mapping[PvAddress, Update]:
        """Read readbacks, and other PVs in the same batch; nothing where there are none of the first."""
        addresses = {watch: PvAddress.parse(watch.validator.pv) for watch in watches}
        updates = self._reader.fetch([*addresses.values(), *beside], deadline) if watches else {}
        for watch, address in addresses.items():
            watch.update(updates[address])
        return updates

    def _decided(self, setpoint: Setpoint, sure: set[Watch]) -> bool:
        setpoint.arrived = setpoint.watches[0].value
        # One whose settle time ended only while others were read has not been read itself: it has its turn next.
        unsettled = [w for w in setpoint.watches if not w.settled() or (self._is_doubtful(w) and w not in sure)]
        late = next((watch for watch in unsettled if watch.expired()), None)
        if late is not None:
            self._failed(setpoint, late.failure())
        return late is not None or not unsettled

    def _call(self, setpoint: Setpoint) -> None:
        """Call a foreign validator, by the convention."""
        validate: Any = setpoint.validator
        try:
            # A call of this package that it waits in ends with the set.
            with under(self._deadline):
                setpoint.arrived = validate(
                    set_pv=setpoint.key,
                    set_value=setpoint.asked,
                    context=self._context.under(self._deadline),
                    timeout=self._patience,
                )
            if isinstance(failure := setpoint.arrived, Exception):
                # What a get or put with throw=False gave, handed on: as if it had been raised.
                setpoint.arrived = None
                raise failure
        except (ValueError, TimeoutError) as error:
            self._failed(setpoint, error)
        except (Exception, SystemExit) as error:  # whatever a foreign validator raises is named with its PV
            if isinstance(error, CallCancelled):
                self._deadline.check("validation")
            self._crashed(setpoint, error)
        finally:
            setpoint.ended = clock.monotonic()

    def _call_aside(self, setpoint: Setpoint, thread: threading.Thread) -> None:
        try:
            with asked_by(thread):
                self._call(setpoint)
        except BaseException as error:  # noqa: BLE001 - nobody else would hear of it in this thread
            self._crashed(setpoint, error)
        finally:
            self._news.put(setpoint)

    def _crashed(self, setpoint: Setpoint, error: BaseException) -> None:
        message = f"the validator {name_of(setpoint.validator)} raised {type(error).__name__}: {error}"
        self._failed(setpoint, error, message, ValidatorCrashed)

    def _failed(
        self,
        setpoint: Setpoint,
        error: BaseException,
        message: str | None = None,
        kind: type[ValidationFailed] = ValidationFailed,
    ) -> None:
        setpoint.not_arrived(message or error, kind, error)

    def close(self) -> None:
        """Stop watching."""
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions.clear()
        self._reader.subscriptions.prune()


class _wakes:  # noqa: N801 - reads as a verb where it is used
    """Context in which a cancel of the deadline wakes the thread that waits on the queue."""

    def __init__(self, deadline: Deadline, news: queue.SimpleQueue[Any]) -> None:
        self._deadline, self._news = deadline, news

    def __enter__(self) -> None:
        self._remove: Callable[[], None] = self._deadline.on_cancel(lambda: self._news.put(None))

    def __exit__(self, *exception: object) -> None:
        self._remove()


def _bounded(seconds: float) -> float:
    """Return the seconds as a timeout that a queue accepts: neither negative nor infinite."""
    return min(max(0.0, seconds), 3600.0) + 1e-4
