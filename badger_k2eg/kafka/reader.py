"""``Reader``: chosen topics from chosen positions. Imports deadline, errors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from confluent_kafka import Consumer, KafkaException, TopicPartition

from ..core.deadline import FOREVER, Deadline
from ..core.errors import KafkaError
from .connection import KafkaConnection
from .consuming import Consuming
from .owner import Owner
from .records import KafkaRecord, Start
from .topics import Topics
from .waiting import wait_all

T = TypeVar("T")

# Seconds that the thread may be held up for the leaders of new topics.
_LEADERS = 1.0

Callback = Callable[[KafkaRecord], None]
Positions = dict[str, dict[int, int]]

# The library wants a group, of which nothing is ever used: no join, no commit.
_NO_GROUP = {"group.id": "badger-k2eg-reader", "auto.offset.reset": "earliest"}


class Reader(Consuming):
    """Reads chosen topics from chosen positions, without a group: no rebalance ever moves or delays it.

    Nothing is opened before the first `assign`. In a forked child it is as new: nothing is assigned. Should the broker
    no longer have what comes next, it goes on with the oldest record there is.

    :param connection: where the brokers are.
    :param callback: called with each record, one after another, in the reader's own thread; per partition in the order
        of the offsets. What it raises is logged and counted. It must not call `assign`, which waits for this thread.
    :param topics: asks about topics and offsets; one of its own by default.
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
        super()._begin()
        # Written by the owner's thread alone.
        self._positions: Positions = {}

    def assign(
        self, topics: Collection[str], deadline: Deadline, start: Start | Mapping[int, int] = Start.END
    ) -> Positions:
        """Read these topics too. When it returns, every record written from now on will come.

        The positions of the other topics stay. A topic that is already read keeps its position as well.

        :param start: where to begin; or the offset by partition, for each of the topics (other partitions are left).
        :returns: the offset at which the reading of each topic began, by topic and partition.
        :raises BrokerUnreachable: naming the broker, when the deadline is over.
        :raises TopicMissing: if one does not exist; then none of them is assigned.
        :raises AuthenticationFailed: see there.
        :raises TopicRefused: if we may not read it.
        :raises CallCancelled: when the deadline was cancelled.
        :raises KafkaError: once closed; inside the callback.
        """
        owner = self._opened({**_NO_GROUP, **self._connection.consumer()}, self._callback)
        if owner.is_own_thread:
            raise KafkaError(f"{self._name}: a topic cannot be assigned inside the callback")
        positions = self._positions
        wanted = [topic for topic in dict.fromkeys(topics) if topic not in positions]
        found: Positions
        if isinstance(start, Start):
            found = self._topics.offsets(wanted, start, deadline)
        else:
            parts = self._topics.partitions(wanted, deadline)
            found = {topic: {part: start[part] for part in parts[topic] if part in start} for topic in parts}

        def add(consumer: Consumer) -> None:
            # Another thread may have been quicker.
            new = {topic: found[topic] for topic in wanted if topic not in positions}
            consumer.incremental_assign([TopicPartition(topic, *each) for topic in new for each in new[topic].items()])
            positions.update(new)
            if new:
                # By itself the library looks for the leader of a new topic once a second.
                with contextlib.suppress(KafkaException):
                    consumer.list_topics(next(iter(new)) if len(new) == 1 else None, timeout=_LEADERS)

        self._wait(owner, add, deadline)
        return {topic: dict(positions.get(topic, {})) for topic in topics}

    def unassign(self, topics: Collection[str]) -> None:
        """Read these topics no more; when it returns, none of them comes any more. Idempotent.

        Inside the callback it returns at once, and works with the next record.
        """
        with self._lock:
            owner, closed = self._owner, self._closed
        if owner is None or closed:
            return
        positions = self._positions

        def remove(consumer: Consumer) -> None:
            gone = {topic: positions.pop(topic) for topic in dict.fromkeys(topics) if topic in positions}
            consumer.incremental_unassign([TopicPartition(topic, part) for topic in gone for part in gone[topic]])

        if owner.is_own_thread:
            owner.request(remove)
        else:
            self._wait(owner, remove, Deadline(FOREVER))

    @property
    def assigned(self) -> frozenset[str]:
        """The topics that are read."""
        return frozenset(self._positions)

    def close(self) -> None:
        """End the thread and the consumer; bounded. Idempotent."""
        super().close()
        if self._owns_topics:
            self._topics.close()

    def _wait(self, owner: Owner, work: Callable[[Consumer], T], deadline: Deadline) -> T:
        future = owner.request(work)
        if not wait_all([future], deadline, self._name):
            raise self._watch.timed_out(self._name)
        return future.result()
