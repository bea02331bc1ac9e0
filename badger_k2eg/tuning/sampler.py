"""``Sampler``: monitors PVs from their first use on, and measures observables from what has arrived since the move.

The backend's monitor thread appends updates; the measuring thread waits for enough of them, and now and then reads
records that post nothing because their value stays the same.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ..control import Control
from ..control.put_rules import not_a_reading
from ..core import clock, fork
from ..core.backend import Subscription, Update
from ..core.deadline import Deadline
from ..core.errors import PvError, PvInvalid, PvTimeout, ReadError, read_failure
from ..core.model import Reading
from .compute import Key, failure_of, hertz, is_single, leaves_of, masks_of, newest_of, sample_of
from .observables import Buffer, Measurable, Observable, Sample
from .skew import Skew

logger = logging.getLogger("badger_k2eg")


#: Seconds between two reads of records that post nothing.
_LOOK = 0.1
#: How many updates of each PV are kept.
_KEPT = 4096


@dataclass(eq=False)
class _Feed:
    """The updates of one PV since it is monitored."""

    pv: str
    updates: deque[tuple[float, Reading]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    newest: Reading | None = None
    #: Why there is no reading at present.
    reason: PvError | None = None
    #: Whether the next update is only the present state after connecting, and does not count as new.
    connecting: bool = True
    subscription: Subscription | None = None

    def hear(self, reading: Reading, *, news: bool) -> None:
        """Add a reading, unless it has the time of the previous one: then it is the same."""
        known, self.newest, self.reason = self.newest, reading, None
        if known is not None and reading.timestamp_ns is not None and reading.timestamp_ns == known.timestamp_ns:
            return
        if news:
            self.updates.append((clock.monotonic(), reading))

    def since(self, instant: float) -> list[Reading]:
        """Return the updates that arrived after an instant."""
        return [reading for arrived, reading in self.updates if arrived > instant]


@dataclass(eq=False)
class _Take:
    """A number of updates of one PV to be taken after an instant, and by a due time."""

    feed: _Feed
    count: int
    enough: int
    since: float
    due: float
    fresh: bool = True
    #: When the record's time was last read: only a later one is new.
    looked: float = 0.0

    def readings(self) -> list[Reading]:
        if not self.fresh:
            return [] if self.feed.newest is None or self.feed.reason is not None else [self.feed.newest]
        return self.feed.since(self.since)[: self.count]

    def done(self, now: float) -> bool:
        return len(self.readings()) >= (self.count if self.fresh else 1) or now >= self.due

    def result(self) -> list[Reading]:
        """Return the readings.

        :raises PvError: when there are too few.
        """
        readings, feed = self.readings(), self.feed
        if len(readings) >= (self.enough if self.fresh else 1):
            return readings
        if feed.reason is not None:
            raise feed.reason
        if feed.newest is None:
            raise PvTimeout(feed.pv, "no answer: no server has it, or it does not answer")
        came = f"{len(readings)} of {self.count} updates came" if self.count > 1 else "no update came"
        raise PvTimeout(feed.pv, f"{came} since the move; it reads {feed.newest.plain!r}, which may be from before it")


class Sampler:
    """Measures observables for one Control.

    :param control: for every read.
    """

    def __init__(self, control: Control) -> None:
        """Monitor nothing yet."""
        self._control = control
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._feeds: dict[str, _Feed] = {}

    def measure(
        self,
        wanted: Mapping[str, Measurable],
        *,
        since: float | None = None,
        deadline: Deadline | None = None,
        skew: Skew | None = None,
    ) -> dict[str, Sample]:
        """Measure all observables together, each with the samples that it needs.

        :param since: monotonic seconds: only what arrived after this instant counts (the end of the move, and the time
            to settle); None is now.
        :param deadline: ends it earlier, or cancels it.
        :param skew: how far apart in time they may be; if they are further apart, they are measured again.
        :returns: the samples, in the order of ``wanted``.
        :raises ReadError: (ReadTimeout, InvalidReading) by the first that cannot be measured, with the values of the
            others in ``.partial``; the message has how many updates came, and what was last seen.
        :raises CallCancelled: when the deadline was cancelled.
        """
        deadline = deadline or Deadline()
        since = clock.monotonic() if since is None else since
        samples, newest = self._measure(wanted, since, deadline)
        if skew is None or (reason := skew.apart(newest)) is None:
            return samples
        for turn in range(skew.again):
            # A snapshot costs little; if that does not help, every PV must post a new update.
            at_once = turn % 2 == 0 and all(is_single(what) for what in wanted.values())
            try:
                retaken = self._snapshot(wanted, skew, deadline) if at_once else None
                samples, newest = retaken or self._measure(wanted, clock.monotonic(), deadline)
            except ReadError as error:
                reason = f"{reason}; taken again, {error}"
                break
            if (reason := skew.apart(newest)) is None:
                return samples
        if skew.otherwise == "mark":
            logger.warning("the observables are %s", reason)
            return {name: replace(sample, skewed=True) for name, sample in samples.items()}
        wrong = PvInvalid(", ".join(wanted), f"{reason} (taken {skew.again + 1} times)")
        raise read_failure(dict.fromkeys(wanted, wrong), {}, str(wrong))

    def _snapshot(
        self, wanted: Mapping[str, Measurable], skew: Skew, deadline: Deadline
    ) -> tuple[dict[str, Sample], dict[str, Reading]] | None:
        """Measure single samples again, in one snapshot; return None if one of them cannot be read."""
        leaves = {(name, part): leaf for name, what in wanted.items() for part, leaf in leaves_of(what).items()}
        pvs = list(dict.fromkeys(leaf.pv for leaf in leaves.values()))
        updates = self._control.snapshot(pvs, skew.seconds or 0.0, deadline.child(self._control.settings.timeout))
        readings = {pv: update for pv, update in updates.items() if isinstance(update, Reading)}
        if len(readings) < len(updates):
            return None
        taken = {key: [readings[leaf.pv]] for key, leaf in leaves.items()}
        samples = {name: sample_of(name, what, leaves, taken, {}, {}) for name, what in wanted.items()}
        return samples, newest_of(leaves, taken)

    def _measure(
        self, wanted: Mapping[str, Measurable], since: float, deadline: Deadline
    ) -> tuple[dict[str, Sample], dict[str, Reading]]:
        leaves = {(name, part): leaf for name, what in wanted.items() for part, leaf in leaves_of(what).items()}
        feeds = self._watch([leaf.pv for leaf in leaves.values()])
        rates = self._rates(leaves.values(), deadline)
        takes = {key: self._take(leaf, feeds[leaf.pv], since, rates) for key, leaf in leaves.items()}
        self._wait(list(takes.values()), deadline)
        with self._changed:
            taken, errors = _results_of(takes)
        masks = masks_of(leaves, taken, errors)
        samples: dict[str, Sample] = {}
        for name, what in wanted.items():
            try:
                samples[name] = sample_of(name, what, leaves, taken, errors, masks)
            except PvError as error:
                errors[name, ""] = error
        failed = {name: error for (name, part), error in errors.items() if name not in samples}
        if failed:
            raise failure_of(failed, {name: sample.value for name, sample in samples.items()})
        return samples, newest_of(leaves, taken)

    def _take(self, leaf: Observable | Buffer, feed: _Feed, since: float, rates: Mapping[str, float]) -> _Take:
        patience = self._control.settings.timeout if leaf.timeout is None else leaf.timeout
        patience = float("inf") if patience < 0 else patience
        if isinstance(leaf, Buffer):
            # Every point that is used must be from after the move.
            rate = rates[leaf.rate] if isinstance(leaf.rate, str) else leaf.rate
            since += leaf.points / rate
            return _Take(feed, 1, 1, since, max(since, clock.monotonic()) + patience)
        enough = leaf.samples if leaf.at_least is None else leaf.at_least
        return _Take(feed, leaf.samples, enough, since, max(since, clock.monotonic()) + patience, leaf.fresh)

    # -- watching --------------------------------------------------------------------------------------------------

    def _watch(self, pvs: Sequence[str]) -> dict[str, _Feed]:
        for pv in dict.fromkeys(pvs):
            with self._changed:
                if (feed := self._feeds.get(pv)) is not None:
                    continue
                feed = self._feeds[pv] = _Feed(pv)
            feed.subscription = self._control.monitor(pv, partial(self._hear, feed))
        return self._feeds

    def _hear(self, feed: _Feed, update: Update) -> None:
        with self._changed:
            if isinstance(update, PvError):
                feed.reason, feed.connecting = update, True
            elif (reason := not_a_reading(update, self._control.settings)) is not None:
                feed.reason, feed.connecting = PvInvalid(feed.pv, reason), False
            else:
                feed.hear(update, news=not feed.connecting)
                feed.connecting = False
            self._changed.notify_all()

    def _look(self, takes: Sequence[_Take], deadline: Deadline, *, news: bool) -> None:
        """Read the PVs; with ``news``, a record whose time has changed counts as an update."""
        feeds, began = {take.feed.pv: take.feed for take in takes}, clock.monotonic()
        updates = self._control.updates(list(feeds), deadline.child(self._control.settings.timeout))
        with self._changed:
            for pv, update in updates.items():
                if isinstance(update, PvError):
                    feeds[pv].reason = update
                else:
                    # A reading without a time cannot be told from the previous one.
                    feeds[pv].hear(update, news=news and update.timestamp_ns is not None)
            for take in takes:
                take.looked = began

    def _wait(self, takes: Sequence[_Take], deadline: Deadline) -> None:
        """Wait until every take is done or due."""
        # The state from which a change of a record's time can be told; and all there is to a PV that is not watched.
        self._look(takes, deadline, news=False)
        while True:
            now = clock.monotonic()
            with self._changed:
                missing = [take for take in takes if not take.done(now)]
                if not missing or deadline.expired:
                    deadline.check("measuring")
                    return
                pause = deadline.child(max(0.0, min(_LOOK, *(take.due - now for take in missing))))
                enough = pause.wait(self._changed, partial(_all_done, missing), what="measuring")
            if enough:
                continue
            overdue = [take for take in missing if take.since <= now and not take.done(now)]
            # What a record processed before the instant ``since`` is not new either.
            for news in (False, True):
                if looking := [take for take in overdue if (take.looked >= take.since) is news]:
                    self._look(looking, deadline, news=news)

    def _rates(self, leaves: Iterable[Observable | Buffer], deadline: Deadline) -> dict[str, float]:
        pvs = {leaf.rate for leaf in leaves if isinstance(leaf, Buffer) and isinstance(leaf.rate, str)}
        readings = self._control.read(sorted(pvs), deadline.child(self._control.settings.timeout)) if pvs else {}
        return {pv: hertz(pv, reading) for pv, reading in readings.items()}

    # -- life --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all monitors."""
        with self._changed:
            feeds, self._feeds = self._feeds, {}
        for feed in feeds.values():
            if feed.subscription is not None:
                feed.subscription.close()

    def before_fork(self) -> None:
        """Hold the lock, so that the copy has no half-changed feed."""
        self._changed.acquire()

    def after_fork_in_parent(self) -> None:
        """Release the lock."""
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Start without feeds: the subscriptions are the parent's."""
        self._begin()


def _results_of(takes: Mapping[Key, _Take]) -> tuple[dict[Key, list[Reading]], dict[Key, PvError]]:
    """Return the readings of each take, and the errors of those with too few."""
    taken: dict[Key, list[Reading]] = {}
    errors: dict[Key, PvError] = {}
    for key, take in takes.items():
        try:
            taken[key] = take.result()
        except PvError as error:
            errors[key] = error
    return taken, errors


def _all_done(takes: Sequence[_Take]) -> bool:
    now = clock.monotonic()
    return all(take.done(now) for take in takes)
