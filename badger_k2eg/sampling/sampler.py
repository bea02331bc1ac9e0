"""``Sampler``: watches PVs from their first use on, and measures observables from what has arrived since the move.

Which thread does what: the backend's monitor thread appends updates; the measuring thread waits for enough of them, and
looks now and then at records that post nothing because their value stays the same.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .. import fork
from ..backend import Subscription, Update
from ..control import Control
from ..deadline import Deadline
from ..errors import PvError, PvInvalid, PvTimeout, ReadError, read_failure
from ..model import Reading
from ..policy import not_a_reading
from .declarations import Buffer, Expression, Measurable, Observable, Sample
from .reduction import reducer

#: Seconds between two looks at records that post nothing.
_LOOK = 0.1
#: Updates kept of each PV.
_KEPT = 4096


@dataclass(eq=False)
class _Feed:
    """What has arrived of one PV since it is watched."""

    pv: str
    updates: deque[tuple[float, Reading]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    newest: Reading | None = None
    #: Why there is no reading just now.
    reason: PvError | None = None
    #: Whether the next update only tells the present state (after connecting), and is no news.
    connecting: bool = True
    subscription: Subscription | None = None

    def hear(self, reading: Reading, *, news: bool) -> None:
        """Take a reading; one with the time of the one before is the same one again."""
        known, self.newest, self.reason = self.newest, reading, None
        if known is not None and reading.timestamp_ns is not None and reading.timestamp_ns == known.timestamp_ns:
            return
        if news:
            self.updates.append((time.monotonic(), reading))

    def since(self, instant: float) -> list[Reading]:
        """Give the updates that arrived after an instant."""
        return [reading for arrived, reading in self.updates if arrived > instant]


@dataclass(eq=False)
class _Take:
    """So many updates of one PV, arrived after an instant, until it is due."""

    feed: _Feed
    count: int
    enough: int
    since: float
    due: float
    fresh: bool = True

    def readings(self) -> list[Reading]:
        if not self.fresh:
            return [] if self.feed.newest is None or self.feed.reason is not None else [self.feed.newest]
        return self.feed.since(self.since)[: self.count]

    def done(self, now: float) -> bool:
        return len(self.readings()) >= (self.count if self.fresh else 1) or now >= self.due

    def result(self) -> list[Reading]:
        """Give the readings.

        :raises PvError: when they are too few.
        """
        readings, feed = self.readings(), self.feed
        if len(readings) >= (self.enough if self.fresh else 1):
            return readings
        if feed.reason is not None:
            raise feed.reason
        if feed.newest is None:
            raise PvTimeout(feed.pv, "no answer: nobody serves it, or it does not answer")
        came = f"{len(readings)} of {self.count} updates came" if self.count > 1 else "no update came"
        raise PvTimeout(feed.pv, f"{came} since the move; it reads {feed.newest.plain!r}, which may be from before it")


class Sampler:
    """Measures observables for one Control.

    :param control: for every read.
    """

    def __init__(self, control: Control) -> None:
        """Watch nothing yet."""
        self._control = control
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._feeds: dict[str, _Feed] = {}

    def measure(
        self, wanted: Mapping[str, Measurable], *, since: float | None = None, deadline: Deadline | None = None
    ) -> dict[str, Sample]:
        """Take all observables together, each with as many samples as it wants.

        :param since: monotonic seconds: only what arrived after this instant counts (the end of the move, and the time
            to settle); None is now.
        :param deadline: ends it earlier, or cancels it.
        :returns: in the order of ``wanted``.
        :raises ReadError: (ReadTimeout, InvalidReading) by the first that cannot be measured, with the values of the
            others in ``.partial``; the message says how many updates came, and what was last seen.
        :raises CallCancelled: when the deadline was cancelled.
        """
        deadline = deadline or Deadline()
        since = time.monotonic() if since is None else since
        leaves = {(name, part): leaf for name, what in wanted.items() for part, leaf in _leaves(what).items()}
        feeds = self._watch([leaf.pv for leaf in leaves.values()])
        rates = self._rates(leaves.values(), deadline)
        takes = {key: self._take(leaf, feeds[leaf.pv], since, rates) for key, leaf in leaves.items()}
        self._wait(list(takes.values()), deadline)
        with self._changed:
            taken, errors = _results(takes)
        masks = _masks(leaves, taken, errors)
        samples: dict[str, Sample] = {}
        for name, what in wanted.items():
            try:
                samples[name] = _sample(name, what, leaves, taken, errors, masks)
            except PvError as error:
                errors[name, ""] = error
        failed = {name: error for (name, part), error in errors.items() if name not in samples}
        if failed:
            raise _failure(failed, {name: sample.value for name, sample in samples.items()})
        return samples

    def _take(self, leaf: Observable | Buffer, feed: _Feed, since: float, rates: Mapping[str, float]) -> _Take:
        patience = self._control.settings.timeout if leaf.timeout is None else leaf.timeout
        patience = float("inf") if patience < 0 else patience
        if isinstance(leaf, Buffer):
            # Every point of the buffer's end is to be from after the move.
            rate = rates[leaf.rate] if isinstance(leaf.rate, str) else leaf.rate
            since += leaf.points / rate
            return _Take(feed, 1, 1, since, max(since, time.monotonic()) + patience)
        enough = leaf.samples if leaf.at_least is None else leaf.at_least
        return _Take(feed, leaf.samples, enough, since, max(since, time.monotonic()) + patience, leaf.fresh)

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

    def _look(self, takes: Iterable[_Take], deadline: Deadline, *, news: bool) -> None:
        """Read the PVs themselves; with ``news``, a record whose time has changed counts as an update."""
        feeds = {take.feed.pv: take.feed for take in takes}
        updates = self._control.updates(list(feeds), deadline.child(self._control.settings.timeout))
        with self._changed:
            for pv, update in updates.items():
                if isinstance(update, PvError):
                    feeds[pv].reason = update
                else:
                    # What gives no time cannot be told from what was there before.
                    feeds[pv].hear(update, news=news and update.timestamp_ns is not None)

    def _wait(self, takes: Sequence[_Take], deadline: Deadline) -> None:
        """Wait until every take is done or due."""
        # The state from which a change of a record's time can be told; and all there is to a PV that is not watched.
        self._look(takes, deadline, news=False)
        while True:
            now = time.monotonic()
            with self._changed:
                missing = [take for take in takes if not take.done(now)]
                if not missing or deadline.expired:
                    deadline.check("measuring")
                    return
                pause = deadline.child(max(0.0, min(_LOOK, *(take.due - now for take in missing))))
                enough = pause.wait(self._changed, partial(_all_done, missing), what="measuring")
            if not enough and (overdue := [take for take in missing if take.since <= now and not take.done(now)]):
                self._look(overdue, deadline, news=True)

    def _rates(self, leaves: Iterable[Observable | Buffer], deadline: Deadline) -> dict[str, float]:
        pvs = {leaf.rate for leaf in leaves if isinstance(leaf, Buffer) and isinstance(leaf.rate, str)}
        readings = self._control.read(sorted(pvs), deadline.child(self._control.settings.timeout)) if pvs else {}
        return {pv: _hertz(pv, reading) for pv, reading in readings.items()}

    # -- life --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Watch nothing any more."""
        with self._changed:
            feeds, self._feeds = self._feeds, {}
        for feed in feeds.values():
            if feed.subscription is not None:
                feed.subscription.close()

    def before_fork(self) -> None:
        """Let no feed be half changed in the copy."""
        self._changed.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: the subscriptions are the parent's."""
        self._begin()


def _all_done(takes: Sequence[_Take]) -> bool:
    now = time.monotonic()
    return all(take.done(now) for take in takes)


_Key = tuple[str, str]


def _leaves(what: Measurable) -> dict[str, Observable | Buffer]:
    return dict(what.parts) if isinstance(what, Expression) else {"": what}


def _results(takes: Mapping[_Key, _Take]) -> tuple[dict[_Key, list[Reading]], dict[_Key, PvError]]:
    taken: dict[_Key, list[Reading]] = {}
    errors: dict[_Key, PvError] = {}
    for key, take in takes.items():
        try:
            taken[key] = take.result()
        except PvError as error:
            errors[key] = error
    return taken, errors


def _masks(
    leaves: Mapping[_Key, Observable | Buffer],
    taken: Mapping[_Key, list[Reading]],
    errors: dict[_Key, PvError],
) -> dict[tuple[str, int], Any]:
    """Find, for each group of buffers, the points that are good in all of them; a buffer too short is an error."""
    masks: dict[tuple[str, int], Any] = {}
    for key, leaf in leaves.items():
        if not isinstance(leaf, Buffer) or key not in taken:
            continue
        try:
            good = np.isfinite(_tail(leaf, taken[key][0]))
        except PvError as error:
            errors[key] = error
            continue
        if leaf.group:
            group = leaf.group, leaf.points
            masks[group] = masks[group] & good if group in masks else good
    return masks


def _tail(leaf: Buffer, reading: Reading) -> Any:
    """Take the newest points.

    :raises PvInvalid: when the buffer has fewer.
    """
    values = np.asarray(reading.value, dtype=float)
    if values.ndim != 1 or len(values) < leaf.points:
        raise PvInvalid(leaf.pv, f"the buffer has {values.size} points, and {leaf.points} are wanted")
    return values[-leaf.points :]


def _sample(
    name: str,
    what: Measurable,
    leaves: Mapping[_Key, Observable | Buffer],
    taken: Mapping[_Key, list[Reading]],
    errors: Mapping[_Key, PvError],
    masks: Mapping[tuple[str, int], Any],
) -> Sample:
    values: dict[str, Any] = {}
    readings: list[Reading] = []
    partly = False
    for part in _leaves(what):
        if (name, part) in errors:
            raise errors[name, part]
        leaf, got = leaves[name, part], taken[name, part]
        readings += got
        values[part] = _reduced(leaf, got, masks)
        partly |= isinstance(leaf, Observable) and leaf.fresh and len(got) < leaf.samples
    if isinstance(what, Expression):
        try:
            value = what.formula(**values)
        except ArithmeticError as error:
            raise PvInvalid(name, f"{what.formula.text}: {error}, with {values}") from None
    else:
        value = values[""]
    return Sample(value.item() if isinstance(value, np.generic) else value, tuple(readings), partly)


def _reduced(leaf: Observable | Buffer, got: Sequence[Reading], masks: Mapping[tuple[str, int], Any]) -> Any:
    reduce = reducer(leaf.reduce)
    if isinstance(leaf, Buffer):
        values = _tail(leaf, got[0])
        good = values[masks.get((leaf.group, leaf.points), np.isfinite(values))]
        if not len(good):
            raise PvInvalid(leaf.pv, f"none of its last {leaf.points} points is a number")
        return reduce(good)
    values = [reading.value for reading in got]
    if leaf.reduce == "none":
        return values[-1]
    try:
        # An array is reduced by itself, shot by shot, and then the shots.
        return reduce([reduce(value) if np.ndim(value) else value for value in values])
    except (TypeError, ValueError):
        raise PvInvalid(leaf.pv, f"{values[-1]!r} cannot be reduced by {leaf.reduce}") from None


def _hertz(pv: str, reading: Reading) -> float:
    """Read a rate: a number, or a label like ``120 Hz``.

    :raises PvInvalid: when there is no beam to wait for.
    """
    text = reading.label if reading.label is not None else str(reading.value)
    number = re.match(r"\s*([0-9.]+)", text)
    rate = float(number[1]) if number else 0.0
    if rate <= 0.0:
        raise _failure({pv: PvInvalid(pv, f"the beam rate is {text!r}")}, {})
    return rate


def _failure(errors: Mapping[str, PvError], values: Mapping[str, Any]) -> ReadError:
    lines = [str(error) if error.pv in (name, "") else f"{name}: {error}" for name, error in errors.items()]
    return read_failure(errors, values, "\n".join(lines))
