"""``TopicReader``: reads chosen topics from chosen positions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from confluent_kafka import KafkaException, TopicPartition

from ..core.deadline import FOREVER, Deadline
from ..core.errors import KafkaError
from .connection import KafkaConnection
from .consumer import ConsumerThread, LazyConsumer
from .handles import ConsumerHandle
from .records import KafkaRecord, Start
from .topics import Topics, wait_all

T = TypeVar("T")

# Seconds that the thread may be held up by looking for the leaders of new topics.
_LEADERS = 1.0

Callback = Callable[[KafkaRecord], None]
Positions = dict[str, dict[int, int]]

# The library demands a group, which is never used: no join, no commit.
_NO_GROUP = {"group.id": "badger-k2eg-reader", "auto.offset.reset": "earliest"}


class TopicReader(LazyConsumer):
    """Reads chosen topics from chosen positions, without a group: no rebalance ever moves or delays it.

    Opens nothing before the first `assign`. In a forked child nothing is assigned. If the broker no longer has the next
    record, reading continues with the oldest one there is.

    :param connection: where the brokers are.
    :param callback: called with each record, one after another, in the reader's own thread; per partition in the order
        of the offsets. What it raises is logged and counted. It must not call `assign`, which waits for this thread.
    :param topics: used to look up topics and offsets; by default the reader makes its own.
    :param name: for the thread and the log.
    """

    def __init__(
        self, connection: KafkaConnection, callback: Callback, *, topics: Topics | None = None, name: str = "reader"
    ) -> None:
        """Open nothing."""
        self._callback = callback
        self._topics = topics or Topics(connection)
        self._owns_topics = topics is None
        super().__init__(connection, name)

    def _begin(self) -> None:
        """Start with nothing assigned."""
        super()._begin()
        # Written by the consumer's thread only.
        self._positions: Positions = {}

    def assign(
        self, topics: Collection[str], deadline: Deadline, start: Start | Mapping[int, int] = Start.END
    ) -> Positions:
        """Read these topics as well. Every record written after this returns is read.

        Topics that are already assigned keep their positions.

        :param start: where to begin; or the offset by partition, for each of the topics (other partitions are left).
        :returns: the offset at which the reading of each topic began, by topic and partition.
        :raises BrokerUnreachable: naming the broker, when the deadline is over.
        :raises TopicMissing: if one of them does not exist; then none of them is assigned.
        :raises AuthenticationFailed: if the broker refuses the credentials or certificates.
        :raises TopicRefused: if the broker does not allow reading it.
        :raises CallCancelled: when the deadline was cancelled.
        :raises KafkaError: once closed; inside the callback.
        """
        thread = self._opened({**_NO_GROUP, **self._connection.consumer()}, self._callback)
        if thread.is_own_thread:
            raise KafkaError(f"{self._name}: a topic cannot be assigned inside the callback")
        positions = self._positions
        wanted = [topic for topic in dict.fromkeys(topics) if topic not in positions]
        found: Positions
        if isinstance(start, Start):
            found = self._topics.offsets(wanted, start, deadline)
        else:
            parts = self._topics.partitions(wanted, deadline)
            found = {topic: {part: start[part] for part in parts[topic] if part in start} for topic in parts}

        def add(consumer: ConsumerHandle) -> None:
            # Another thread may have assigned some of them meanwhile.
            new = {topic: found[topic] for topic in wanted if topic not in positions}
            consumer.incremental_assign([TopicPartition(topic, *each) for topic in new for each in new[topic].items()])
            positions.update(new)
            if new:
                # By itself the library looks for the leader of a new topic once a second.
                with contextlib.suppress(KafkaException):
                    consumer.list_topics(next(iter(new)) if len(new) == 1 else None, timeout=_LEADERS)

        self._wait(thread, add, deadline)
        return {topic: dict(positions.get(topic, {})) for topic in topics}

    def unassign(self, topics: Collection[str]) -> None:
        """Stop reading these topics; no record of them is handed over after this returns. Idempotent.

        Inside the callback it returns at once and takes effect with the next record.
        """
        with self._lock:
            thread, closed = self._thread, self._closed
        if thread is None or closed:
            return
        positions = self._positions

        def remove(consumer: ConsumerHandle) -> None:
            gone = {topic: positions.pop(topic) for topic in dict.fromkeys(topics) if topic in positions}
            consumer.incremental_unassign([TopicPartition(topic, part) for topic in gone for part in gone[topic]])

        if thread.is_own_thread:
            thread.request(remove)
        else:
            self._wait(thread, remove, Deadline(FOREVER))

    @property
    def assigned(self) -> frozenset[str]:
        """The topics that are being read."""
        return frozenset(self._positions)

    def close(self) -> None:
        """End the thread and the consumer, in bounded time. Idempotent."""
        super().close()
        if self._owns_topics:
            self._topics.close()

    def _wait(self, thread: ConsumerThread, work: Callable[[ConsumerHandle], T], deadline: Deadline) -> T:
        """Let the thread do some work, and return its result."""
        future = thread.request(work)
        if not wait_all([future], deadline, self._name):
            raise self._health.timed_out(self._name)
        return future.result()
