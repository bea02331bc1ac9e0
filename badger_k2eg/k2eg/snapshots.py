"""Snapshots over K2EG: the values of one instant, once or again and again.

Owns their results and ``Assembler``, which puts iterations together from messages, for both revisions of the protocol
and without any I/O: whatever is lost, doubled or restarted, it goes on, and marks what is incomplete.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core import clock
from ..core.errors import ControlError
from .codec import Message, SnapshotData, SnapshotHeader, SnapshotTail, SnapshotType, check_field_names

logger = logging.getLogger(__name__)

# Messages that wait for a handler; beyond, new ones are dropped, and what they belong to is marked.
_MOST_WAITING = 100_000
# Seconds after the last message of an open iteration until it is taken for complete, beyond its window.
_PATIENCE = 2.0
# Seconds in which the closing iteration comes; so often it is looked for.
_CLOSING, _LOOK = 2.0, 0.5
_JOIN = 5.0


@dataclass(frozen=True, slots=True)
class OneShot:
    """What a one-shot snapshot has found.

    :ivar values: the tree of each PV, by URI.
    :ivar errors: why there is none.
    :ivar completed_by_get: those that had no event within the window and were read afterwards: not of the same instant.
    :ivar messages: what the gateway complained of.
    """

    values: Mapping[str, Mapping[str, Any]]
    errors: Mapping[str, ControlError] = field(default_factory=dict)
    completed_by_get: frozenset[str] = frozenset()
    messages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotProperties:
    """A recurring snapshot as it is asked for. Names and defaults are those of the k2eg library.

    :ivar snapshot_name: its identity, apart from letter case and what is no letter, digit or ``-``.
    :ivar time_window: the period of iterations, milliseconds.
    :ivar repeat_delay: a pause between two of them, milliseconds; the real gateway knows none.
    :ivar sub_push_delay_msec: of a time-buffered one: publish this often within a window; 0: once.
    :ivar respect_push_order: accepted for old programs, and not used: order is told by numbers.
    :ivar triggered: an iteration for each trigger, instead of periodically. Quick triggers make one together.
    :ivar pv_field_filter_list: of a time-buffered one: keep these top-level fields alone.
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
        """Look at what the gateway would take without a word, or could not bear.

        :raises ValueError: naming what is wrong.
        """
        if not isinstance(self.snapshot_name, str) or not self.snapshot_name:
            raise ValueError("a recurring snapshot needs a name (snapshot_name)")
        for name in ("time_window", "repeat_delay", "sub_push_delay_msec"):
            number = getattr(self, name)
            if not isinstance(number, int) or isinstance(number, bool) or number < 0 or number >= 2**31:
                raise ValueError(f"{name} is a number of milliseconds, 0 or more, not {number!r}")
        if self.time_window == 0:
            raise ValueError("time_window is a number of milliseconds above 0")
        SnapshotType(self.type)
        check_field_names(self.pv_field_filter_list or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One iteration of a recurring snapshot.

    :ivar iteration: its number; 1 for the first since the start of the snapshot.
    :ivar timestamp: of its tail (where that was lost, of its last message), milliseconds since the Unix epoch.
    :ivar header_timestamp: of its header; None where that was lost.
    :ivar values: the trees of each PV that has any, in order, by the PV's name.
    :ivar partial: messages of it were lost.
    :ivar stale: PVs whose record has the same time as in the iteration before: static, or gone (the gateway repeats
        the last value of a PV that is gone as if all were well).
    """

    iteration: int
    timestamp: int
    header_timestamp: int | None
    values: Mapping[str, tuple[Mapping[str, Any], ...]]
    partial: bool = False
    stale: frozenset[str] = frozenset()


class Assembler:
    """Puts iterations together. Feed it messages in the order of the topic."""

    def __init__(self) -> None:
        """Wait for a header: what comes before is of an iteration that began without us."""
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
        """Whether an iteration has begun and has not ended."""
        return self._number is not None

    def lose(self) -> list[Iteration]:
        """Take notice that messages were dropped just here."""
        self._lost = True
        return []

    def take(self, message: Message) -> list[Iteration]:
        """Take a message; gives the iterations that are complete, or as complete as they will ever be."""
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
        """End the open iteration without its tail."""
        return [self._finish(None)] if self.open else []

    def _begin(self, number: int) -> None:
        self._number, self._header = number, None
        self._values, self._seen = {}, set()

    def _note(self, message: SnapshotHeader | SnapshotData | SnapshotTail) -> None:
        self._last_timestamp = message.timestamp
        if message.msg_seq is not None:
            self._seen.add(message.msg_seq)

    def _finish(self, tail: SnapshotTail | None) -> Iteration:
        assert self._number is not None  # noqa: S101 - for the type checker; that is when this is called
        partial = self._lost or tail is None or self._header is None
        if tail is not None and tail.msg_seq is not None:
            # Revision B counts them; in revision A a lost value cannot be told from none.
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
    """Sort by the numbers of revision B; without them, the order of the topic is right."""
    return sorted(items, key=lambda data: data.msg_seq or 0)


class Recurring:
    """A recurring snapshot that this client takes part in: hands its iterations to a handler, in order.

    :ivar joined: somebody else had started it: what it holds, and how often, is as that one said.
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
        #: Messages that were dropped because the handler was too slow.
        self.lost = 0
        self._handler = handler
        self._leave = leave
        self._closed = False
        self._until = math.inf
        # None: one or more were dropped here, or there is nothing more to come.
        self._messages: queue.Queue[Message | None] = queue.Queue(_MOST_WAITING)
        self._overrun = False
        self._thread = threading.Thread(target=self._run, name=f"k2eg snapshot {topic}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The snapshot's name."""
        return self.properties.snapshot_name

    def heard(self, message: Message, raw: bytes) -> None:
        """Take a message (the link's thread)."""
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
        except Exception:  # a handler is not ours; its fault must not end the snapshot
            logger.exception("the handler of snapshot %s failed", self.name)

    def finish(self) -> None:
        """Take part until the closing iteration has come: it does about when the stop is answered."""
        self._until = clock.monotonic() + _CLOSING

    def close(self) -> None:
        """Take part no longer; the snapshot itself goes on until it is stopped. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(queue.Full):  # then the thread has something to wake up for
            self._messages.put_nowait(None)
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN)
