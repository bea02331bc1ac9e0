"""Recurring snapshots of a gateway: iterations of the values of PVs on a topic of their own, until stopped.

Pushes run in the scheduler's thread, one at a time; updates of PVs only store values. Snapshots end with the gateway.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from ..control import Reader
from ..core import clock
from ..core.backend import Subscription, Update
from ..core.deadline import Deadline
from ..core.errors import KafkaError
from ..core.model import Reading
from ..k2eg.codec import (
    PvUri,
    RepeatingSnapshot,
    SnapshotStop,
    SnapshotTrigger,
    SnapshotType,
    parse_uri,
    snapshot_topic,
)
from ..kafka import Topics
from .monitors import RETENTION, TOPIC_PATIENCE
from .publisher import Publisher
from .pv_access import stale, watch
from .scheduler import Scheduler
from .snapshot_messages import Iterations, Revision

logger = logging.getLogger(__name__)

_LONGEST_NAME = 249
# A shorter period would leave no time for anything else.
_SHORTEST_PERIOD = 0.01
# Without a delay of its own, a time-buffered snapshot pushes at least once a second.
_LONGEST_PUSH = 1.0
# Events kept between two pushes; the oldest go first.
_MOST_EVENTS = 10_000


class RecurringSnapshots:
    """The recurring snapshots of one gateway, by topic: names with the same topic are the same snapshot."""

    def __init__(
        self, reader: Reader, publisher: Publisher, topics: Topics, scheduler: Scheduler, revision: Revision
    ) -> None:
        """Run no snapshot yet."""
        self._reader = reader
        self._publisher = publisher
        self._topics = topics
        self._scheduler = scheduler
        self._revision = revision
        self._lock = threading.Lock()
        self._running: dict[str, _Recurring] = {}

    def __len__(self) -> int:
        return len(self._running)

    def start(self, command: RepeatingSnapshot) -> None:
        """Start a snapshot, or join one that is running, ignoring the command's other parameters."""
        topic, name = snapshot_topic(command.snapshot_name), command.snapshot_name
        if (refusal := self._refusal(command, topic)) is not None:
            self._publisher.acknowledge(command, *refusal)
            return
        uris = {uri.name: uri for uri in map(parse_uri, command.pv_name_list) if uri is not None}
        snapshot = _Recurring(command, Iterations(self._publisher, command, topic, self._revision), self._scheduler)
        with self._lock:
            is_new = self._running.setdefault(topic, snapshot) is snapshot
        if not is_new:
            self._publisher.acknowledge(command, 0, f"Snapshot {name} is already running")
            return
        try:
            self._make(topic)
            snapshot.start(self._reader, uris)
        except BaseException:
            with self._lock:
                self._running.pop(topic, None)
            raise
        self._publisher.acknowledge(command, 0, f"The snapshot '{name}' has been started", topic)

    def _refusal(self, command: RepeatingSnapshot, topic: str) -> tuple[int, str] | None:
        """Return code and message if it is not to be started, checking in the order of the real gateway."""
        name = command.snapshot_name
        if not isinstance(command.type, SnapshotType):
            return -1, "The snapshot type Unknown is not supported"
        if topic in self._running:
            return 0, f"Snapshot {name} is already running"
        if command.repeat_delay_msec < 0:
            return -3, "The repeat delay needs to be positive"
        if command.time_window_msec < 0:
            return -4, "The time window needs to be positive"
        if not name:
            return -5, "The snapshot name is not valid "
        if (wrong := next((text for text in command.pv_name_list if parse_uri(text) is None), None)) is not None:
            return -6, f"The pv uri {wrong} is not parsable"
        if len(topic) > _LONGEST_NAME:
            return -7, f"The snapshot {name} is not valid"
        return None

    def _make(self, topic: str) -> None:
        try:
            self._topics.create(topic, Deadline(TOPIC_PATIENCE), partitions=1, config=RETENTION)
        except KafkaError as error:
            # The broker may create it with the first record.
            logger.warning("cannot create topic %s: %s", topic, error)

    def trigger(self, command: SnapshotTrigger) -> None:
        """Make a snapshot publish an iteration; triggers that come faster than iterations share one."""
        name = command.snapshot_name
        if not name:
            self._publisher.acknowledge(command, -1, "The snapshot name is empty")
        elif (snapshot := self._running.get(snapshot_topic(name))) is None:
            self._publisher.acknowledge(command, -2, f"Snapshot '{name}' has not been found")
        else:
            self._publisher.acknowledge(command, 0, f"Snapshot '{name}' has been armed")
            snapshot.trigger()

    def stop(self, command: SnapshotStop) -> None:
        """Stop a snapshot after a last iteration, then answer."""
        name = command.snapshot_name
        if not name:
            self._publisher.acknowledge(command, -1, "The snapshot name is empty")
            return

        def finish() -> None:
            with self._lock:
                snapshot = self._running.pop(snapshot_topic(name), None)
            if snapshot is not None:
                snapshot.finish()
            done = "is already stopped" if snapshot is None else "has been stopped"
            self._publisher.acknowledge(command, 0, f"Snapshot '{name}' {done}")

        self._scheduler.call_later(0.0, finish)

    def close(self) -> None:
        """End all snapshots without a last iteration."""
        with self._lock:
            running, self._running = list(self._running.values()), {}
        for snapshot in running:
            snapshot.close()


class _Recurring:
    """A recurring snapshot. Its pushes run in the scheduler's thread."""

    def __init__(self, command: RepeatingSnapshot, iterations: Iterations, scheduler: Scheduler) -> None:
        self._command = command
        self._iterations = iterations
        self._scheduler = scheduler
        self._window = max(command.time_window_msec / 1000, _SHORTEST_PERIOD)
        self._buffered = command.type is SnapshotType.TIMED_BUFFERED
        self._fields = frozenset(command.pv_field_filter_list)
        self._order: tuple[str, ...] = ()
        self._subscriptions: list[Subscription] = []
        # Held for an instant only: values come in the threads of the backends.
        self._lock = threading.Lock()
        self._latest: dict[str, Mapping[str, Any]] = {}
        self._events: deque[tuple[float, str, Mapping[str, Any]]] = deque(maxlen=_MOST_EVENTS)
        self._silent: set[str] = set()
        self._armed = False
        self._over = False
        # Of a time-buffered one: when the window under way ends.
        self._window_end = 0.0

    def start(self, reader: Reader, uris: Mapping[str, PvUri]) -> None:
        """Follow the PVs and begin."""
        # In the order of the command, whichever answers first.
        self._order = tuple(uris)
        self._silent = set(uris)
        if not self._command.triggered:
            self._begin_window(clock.monotonic())
        self._subscriptions = watch(reader, uris, self._tell)
        if self._over:  # stopped meanwhile
            self.close()

    def _tell(self, name: str, update: Update) -> None:
        with self._lock:
            if isinstance(update, Reading):
                self._latest[name] = update.tree
            elif name in self._latest:
                self._latest[name] = stale(self._latest[name])
            else:
                return
            if self._buffered:
                self._events.append((clock.monotonic(), name, self._latest[name]))

    # -- when ---------------------------------------------------------------------------------------------------

    def trigger(self) -> None:
        """Publish an iteration soon. Has no effect on a periodic snapshot."""
        with self._lock:
            if self._armed or not self._command.triggered:
                return
            self._armed = True
        self._scheduler.call_later(0.0, self._triggered)

    def _triggered(self) -> None:
        with self._lock:
            self._armed = False
        if not self._over:
            self._iterate()

    def _begin_window(self, now: float) -> None:
        self._window_end = now + self._window
        self._plan_push(now)

    def _plan_push(self, now: float) -> None:
        self._scheduler.call_at(min(now + self._push_period(), self._window_end), self._push)

    def _push_period(self) -> float:
        if not self._buffered:
            return self._window
        own = self._command.sub_push_delay_msec / 1000
        return max(own, _SHORTEST_PERIOD) if own > 0 else _LONGEST_PUSH

    def _push(self) -> None:
        if self._over:
            return
        now = clock.monotonic()
        if now < self._window_end:
            self._iterations.push(self._values())
            # From the planned time, so that a late push does not delay the next.
            self._plan_push(now)
            return
        self._iterate()
        pause = self._command.repeat_delay_msec / 1000
        # From the planned end, so that the period holds, unless the gateway cannot keep up.
        next_window = max(self._window_end + pause, now - self._window)
        self._scheduler.call_at(next_window, lambda: None if self._over else self._begin_window(next_window))

    # -- what ---------------------------------------------------------------------------------------------------

    def _iterate(self) -> None:
        """Publish all values and the tail of the iteration."""
        self._iterations.push(self._values(closing=True))
        self._iterations.end()

    def _values(self, *, closing: bool = False) -> list[tuple[str, Mapping[str, Any]]]:
        with self._lock:
            if not self._buffered:
                return [(name, self._latest[name]) for name in self._order if name in self._latest]
            oldest = clock.monotonic() - self._window if self._command.triggered else 0.0
            events = [(name, tree) for arrived, name, tree in self._events if arrived >= oldest]
            self._events.clear()
            self._silent.difference_update(name for name, _ in events)
            if closing:
                # A PV without an event in the whole window appears with its last value.
                quiet = [name for name in self._order if name in self._silent and name in self._latest]
                events += [(name, self._latest[name]) for name in quiet]
                self._silent = set(self._order)
        return [(name, self._filtered(tree)) for name, tree in events]

    def _filtered(self, tree: Mapping[str, Any]) -> Mapping[str, Any]:
        return {key: item for key, item in tree.items() if key in self._fields} if self._fields else tree

    def finish(self) -> None:
        """Publish a last iteration, or the rest of the open one, and end (scheduler)."""
        self._iterate()
        self.close()

    def close(self) -> None:
        """End the snapshot."""
        self._over = True
        for subscription in self._subscriptions:
            subscription.close()
