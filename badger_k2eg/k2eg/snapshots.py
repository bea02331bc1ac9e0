"""Snapshots over K2EG: the values of one instant, once or repeatedly.

Owns their results and the ``Assembler``, which builds iterations from messages, for both revisions of the protocol and
without any I/O: it copes with lost, repeated and restarted messages, and marks incomplete iterations. Imports
gets_and_puts and the modules below.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..core import clock
from ..core.deadline import Deadline
from ..core.errors import ControlError, OperationError, PvNotConnected
from ..kafka import Delivery
from .codec import (
    Message,
    PvUri,
    Reply,
    Snapshot,
    SnapshotData,
    SnapshotDone,
    SnapshotHeader,
    SnapshotTail,
    SnapshotType,
    ValueReply,
    check_field_names,
)
from .gets_and_puts import GetsAndPuts
from .requests import Link

logger = logging.getLogger(__name__)

# Messages kept for a slow handler; further ones are dropped, and their iteration is marked as partial.
_MOST_WAITING = 100_000
# Seconds beyond its window after which an open iteration without new messages is taken as complete.
_PATIENCE = 2.0
# Seconds in which the closing iteration must come, and between two looks for it.
_CLOSING, _LOOK = 2.0, 0.5
_JOIN = 5.0
# The gateway gathers for the whole window, then sends. So many seconds later the completion is no longer expected.
_MARGIN = 2.0
_LONGEST_WINDOW = 3600.0


@dataclass(frozen=True, slots=True)
class OneShot:
    """The result of a one-shot snapshot.

    :ivar values: the tree of each PV, by URI.
    :ivar errors: the errors of the others.
    :ivar completed_by_get: PVs without an event in the window that were read afterwards: not of the same instant.
    :ivar messages: complaints of the gateway.
    """

    values: Mapping[str, Mapping[str, Any]]
    errors: Mapping[str, ControlError] = field(default_factory=dict)
    completed_by_get: frozenset[str] = frozenset()
    messages: tuple[str, ...] = ()


def take_snapshot(
    pvs: GetsAndPuts, link: Link, uris: Sequence[PvUri], window: float, deadline: Deadline, *, complete: bool
) -> OneShot:
    """Take the values of one instant.

    :param window: seconds.
    :param complete: read the PVs that had no event within the window.
    :raises ValueError: for a window that is not positive, or longer than an hour.
    :raises OperationTimeout: when the gateway does not answer at all; also when there is no time for the window.
    """
    if not 0.0 < window <= _LONGEST_WINDOW:
        raise ValueError(f"the window of a snapshot must be a number of seconds above 0, not {window!r}")
    if not uris:
        return OneShot({})
    link.open(deadline)
    values, complaints = _gather(pvs, link, uris, window, deadline)
    missing = [uri for uri in uris if uri.text not in values]
    errors: dict[str, ControlError] = {}
    read: set[str] = set()
    if missing and complete:
        # The real gateway leaves out PVs that it monitors already, and PVs without an update.
        for text, answer in pvs.get_many([uri.text for uri in missing], deadline).items():
            if isinstance(answer, ControlError):
                errors[text] = answer
            else:
                values[text] = answer
                read.add(text)
    elif missing:
        errors = {uri.text: PvNotConnected(uri.text, f"no value within the window of {window:g} s") for uri in missing}
    ordered = {uri.text: values[uri.text] for uri in uris if uri.text in values}
    return OneShot(ordered, errors, frozenset(read), tuple(complaints))


def in_background(take: Callable[[], OneShot], handler: Callable[[OneShot | ControlError], None]) -> None:
    """Take a snapshot in a new thread and pass its result or error to the handler."""

    def run() -> None:
        try:
            result: OneShot | ControlError = take()
        except ControlError as error:
            result = error
        handler(result)

    threading.Thread(target=run, name="k2eg snapshot", daemon=True).start()


def _gather(
    pvs: GetsAndPuts, link: Link, uris: Sequence[PvUri], window: float, deadline: Deadline
) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """Collect values and complaints until the gateway reports completion."""
    news: queue.SimpleQueue[Any] = clock.simple_queue()
    texts = tuple(dict.fromkeys(uri.text for uri in uris))
    make = partial(Snapshot, pv_name_list=texts, time_window_msec=max(1, round(window * 1000)))
    wanted: dict[str, list[str]] = {}
    for uri in uris:
        wanted.setdefault(uri.name, []).append(uri.text)
    values: dict[str, Mapping[str, Any]] = {}
    complaints: list[str] = []
    patience = deadline.child(window + _MARGIN)
    remove = deadline.on_cancel(lambda: news.put(None))
    ticket = link.send(make, f"snapshot of {len(texts)} PVs", news)
    finished = False
    try:
        while not finished:
            try:
                got = news.get(timeout=patience.remaining() + 1e-3)
            except queue.Empty:
                break
            deadline.check("snapshot")
            if got is None:
                continue
            _, message, raw = got
            if isinstance(message, SnapshotDone):
                finished = True
            elif isinstance(message, ValueReply):
                pvs.types.learn(message.pv, message.tree, raw)
                for text in wanted.get(message.pv, ()):
                    values[text] = message.tree
            elif isinstance(message, Delivery):
                if not message.sent:
                    break
            elif isinstance(message, Reply) and message.error < 0:
                if message.message is None:
                    raise OperationError(message.error, "", ticket.what)
                complaints.append(message.message)
    finally:
        remove()
        link.done(ticket) if finished else link.give_up(ticket, timed_out=not deadline.cancelled)
    if not finished and not values:
        raise link.silence(ticket, patience.seconds)
    return values, complaints


# -- recurring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SnapshotProperties:
    """The parameters of a recurring snapshot. Names and defaults are those of the k2eg library.

    :ivar snapshot_name: its identity; letter case, and all but letters, digits and ``-``, make no difference.
    :ivar time_window: the period of the iterations, milliseconds.
    :ivar repeat_delay: the pause between two iterations, milliseconds; the real gateway makes none.
    :ivar sub_push_delay_msec: for a time-buffered snapshot, the period of pushes within a window; 0 for one push.
    :ivar respect_push_order: accepted for old programs and ignored: messages are ordered by their numbers.
    :ivar triggered: publish an iteration for each trigger instead of periodically. Quick triggers may share one.
    :ivar pv_field_filter_list: for a time-buffered snapshot, the only top-level fields to keep.
    """

    snapshot_name: str
    time_window: int = 1000
    repeat_delay: int = 0
    sub_push_delay_msec: int = 0
    respect_push_order: bool = True
    triggered: bool = False
    type: SnapshotType = SnapshotType.NORMAL
    pv_uri_list: Sequence[str] = ()
    pv_field_filter_list: Sequence[str] | None = None

    def check(self) -> None:
        """Check what the gateway would misinterpret silently, or crash on.

        :raises ValueError: naming the wrong property.
        """
        if not isinstance(self.snapshot_name, str) or not self.snapshot_name:
            raise ValueError("a recurring snapshot needs a name (snapshot_name)")
        for name in ("time_window", "repeat_delay", "sub_push_delay_msec"):
            number = getattr(self, name)
            if not isinstance(number, int) or isinstance(number, bool) or number < 0 or number >= 2**31:
                raise ValueError(f"{name} must be a number of milliseconds, 0 or more, not {number!r}")
        if self.time_window == 0:
            raise ValueError("time_window must be a number of milliseconds above 0")
        SnapshotType(self.type)
        check_field_names(self.pv_field_filter_list or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """An iteration of a recurring snapshot.

    :ivar iteration: its number; 1 for the first since the start of the snapshot.
    :ivar timestamp: time of its tail, or of its last message if the tail was lost, milliseconds since the Unix epoch.
    :ivar header_timestamp: time of its header; None if that was lost.
    :ivar values: the trees of each PV that has any, in order, by the PV's name.
    :ivar partial: whether some of its messages were lost.
    :ivar stale: PVs whose record has the same time as in the previous iteration: static, or disconnected (the gateway
        repeats the last value of a disconnected PV as if it were current).
    """

    iteration: int
    timestamp: int
    header_timestamp: int | None
    values: Mapping[str, tuple[Mapping[str, Any], ...]]
    partial: bool = False
    stale: frozenset[str] = frozenset()


class Assembler:
    """Builds iterations from messages in the order of the topic."""

    def __init__(self) -> None:
        """Wait for a header: messages before it belong to an iteration that began earlier."""
        self._joined = False
        self._header: SnapshotHeader | None = None
        self._number: int | None = None
        self._values: dict[str, list[SnapshotData]] = {}
        self._seen: set[int] = set()
        self._last_timestamp = 0
        self._lost = False
        self._record_times: dict[str, Any] = {}

    @property
    def open(self) -> bool:
        """Whether an iteration has begun and not ended."""
        return self._number is not None

    def lose(self) -> list[Iteration]:
        """Note that messages were dropped at this point."""
        self._lost = True
        return []

    def take(self, message: Message) -> list[Iteration]:
        """Take a message and return the iterations that have ended with it."""
        if isinstance(message, SnapshotHeader):
            done = self.flush()
            self._joined = True
            self._begin(message.iter_index)
            self._header = message
            self._note(message)
            return done
        if not self._joined or not isinstance(message, SnapshotData | SnapshotTail):
            return []
        done = []
        if message.iter_index != self._number:
            done = self.flush()
            # Its header was lost.
            self._begin(message.iter_index)
            self._lost = True
        if isinstance(message, SnapshotData):
            if message.msg_seq is None or message.msg_seq not in self._seen:
                self._values.setdefault(message.pv, []).append(message)
            self._note(message)
            return done
        self._note(message)
        return [*done, self._finish(message)]

    def flush(self) -> list[Iteration]:
        """End the open iteration without its tail, and return it."""
        return [self._finish(None)] if self.open else []

    def _begin(self, number: int) -> None:
        self._number, self._header = number, None
        self._values, self._seen = {}, set()

    def _note(self, message: SnapshotHeader | SnapshotData | SnapshotTail) -> None:
        self._last_timestamp = message.timestamp
        if message.msg_seq is not None:
            self._seen.add(message.msg_seq)

    def _finish(self, tail: SnapshotTail | None) -> Iteration:
        assert self._number is not None  # noqa: S101 - for the type checker; true of every caller
        partial = self._lost or tail is None or self._header is None
        if tail is not None and tail.msg_seq is not None:
            # Revision B counts the messages; in revision A a lost value goes unnoticed.
            partial = partial or len(self._seen) < (tail.total_messages or tail.msg_seq)
        values = {pv: tuple(data.tree for data in _in_order(items)) for pv, items in self._values.items()}
        iteration = Iteration(
            iteration=self._number,
            timestamp=self._last_timestamp,
            header_timestamp=self._header.timestamp if self._header else None,
            values=values,
            partial=partial,
            stale=self._stale(values),
        )
        self._number, self._header, self._values, self._lost = None, None, {}, False
        return iteration

    def _stale(self, values: Mapping[str, tuple[Mapping[str, Any], ...]]) -> frozenset[str]:
        times = {pv: trees[-1].get("timeStamp") for pv, trees in values.items()}
        stale = frozenset(pv for pv, at in times.items() if at is not None and self._record_times.get(pv) == at)
        self._record_times.update(times)
        return stale


def _in_order(items: list[SnapshotData]) -> list[SnapshotData]:
    """Sort by the numbers of revision B; without them, keep the order of the topic."""
    return sorted(items, key=lambda data: data.msg_seq or 0)


class Recurring:
    """A client's part in a recurring snapshot: passes the iterations to a handler, in order.

    :ivar joined: whether it was running already; then its PVs and period are those of whoever started it.
    """

    def __init__(
        self,
        properties: SnapshotProperties,
        topic: str,
        handler: Callable[[Iteration], None],
        leave: Callable[[Collection[str]], None],
    ) -> None:
        """Start the thread that calls the handler."""
        self.properties = properties
        self.topic = topic
        self.joined = False
        #: Number of messages dropped because the handler was too slow.
        self.lost = 0
        self._handler = handler
        self._leave = leave
        self._closed = False
        self._until = math.inf
        # None marks dropped messages, or wakes the thread.
        self._messages: queue.Queue[Message | None] = queue.Queue(_MOST_WAITING)
        self._overrun = False
        self._thread = threading.Thread(target=self._run, name=f"k2eg snapshot {topic}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The snapshot's name."""
        return self.properties.snapshot_name

    def heard(self, message: Message, raw: bytes) -> None:
        """Queue a message (the link's thread)."""
        try:
            if self._overrun:
                self._messages.put_nowait(None)
                self._overrun = False
            self._messages.put_nowait(message)
        except queue.Full:
            self.lost += 1
            self._overrun = True

    def _run(self) -> None:
        assembler = Assembler()
        patience = self.properties.time_window / 1000 + _PATIENCE
        while not self._closed and clock.monotonic() < self._until:
            try:
                message = self._messages.get(timeout=patience if assembler.open else _LOOK)
            except queue.Empty:
                done = assembler.flush()
            else:
                done = assembler.lose() if message is None else assembler.take(message)
            for iteration in done:
                self._call(iteration)
        self._leave([self.topic])

    def _call(self, iteration: Iteration) -> None:
        if self._closed:
            return
        try:
            self._handler(iteration)
        except Exception:  # the fault of a user's handler must not end the snapshot
            logger.exception("the handler of snapshot %s failed", self.name)

    def finish(self) -> None:
        """Take part until the closing iteration has come, which is about when the stop is answered."""
        self._until = clock.monotonic() + _CLOSING

    def close(self) -> None:
        """Leave the snapshot, which goes on until it is stopped. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(queue.Full):  # then there are messages to wake the thread
            self._messages.put_nowait(None)
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN)
