"""``GroupConsumer``: reads topics as a member of a consumer group."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future

from confluent_kafka import OFFSET_END, KafkaException, TopicPartition

from ..core.deadline import Deadline
from .connection import KafkaConnection
from .consumer import ConsumerThread, LazyConsumer
from .handles import ConsumerHandle
from .records import KafkaRecord
from .topics import Topics, wait_all

logger = logging.getLogger("badger_k2eg.kafka")

_GROUP = {
    "partition.assignment.strategy": "cooperative-sticky",
    "auto.offset.reset": "latest",
    # As short as a broker allows: for this long nobody reads the partitions of a member that was killed.
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 2000,
}
# Seconds that looking up the ends of the partitions may take when the group starts.
_LOOK_UP = 5.0
_PAUSE = 0.05


class GroupConsumer(LazyConsumer):
    """Reads topics as a member of a consumer group: every record goes to one member.

    The offsets are committed after the records were handed over: after a crash, or when members come and go, some may
    come twice. A partition that the group has never read begins at its end (``auto.offset.reset=latest``); a known
    group continues where it was, through all that was written meanwhile. In a forked child it is not started.

    :param group: the ``group.id``.
    :param callback: as in `TopicReader`.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        group: str,
        topics: Collection[str],
        callback: Callable[[KafkaRecord], None],
        *,
        name: str = "group",
    ) -> None:
        """Open nothing."""
        self._group = group
        self._names = list(topics)
        self._callback = callback
        super().__init__(connection, name)

    def _begin(self) -> None:
        """Start as no member."""
        super()._begin()
        # Of the consumer's thread only: the next offset of each partition, where it is not committed yet.
        self._next: dict[tuple[str, int], int] = {}
        self._joined: Future[None] = Future()

    def start(self, deadline: Deadline) -> None:
        """Join the group. When this returns, the positions are fixed: a member reads whatever is written from then on.

        A member for which no partition is left joins nevertheless, and gets some when another member leaves.

        :raises TopicMissing: if a topic does not exist.
        :raises BrokerUnreachable: see `TopicReader.assign`, also for the other errors.
        """
        topics = Topics(self._connection)
        try:
            topics.partitions(self._names, deadline)
        finally:
            topics.close()
        configuration = {**_GROUP, **self._connection.consumer(), "group.id": self._group}
        self._opened(configuration, self._hand_over, self._commit)
        if not wait_all([self._joined], deadline, f"joining group {self._group}"):
            raise self._health.timed_out(f"group {self._group} cannot be joined")

    def _started(self, thread: ConsumerThread) -> None:
        """Subscribe first of all."""
        thread.request(self._subscribe)

    # -- in the consumer's thread ---------------------------------------------------------------------------------

    def _subscribe(self, consumer: ConsumerHandle) -> None:
        """Subscribe to the topics."""
        consumer.subscribe(self._names, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def _hand_over(self, record: KafkaRecord) -> None:
        """Call back with a record, and note its offset."""
        try:
            self._callback(record)
        finally:
            self._next[record.topic, record.partition] = record.offset + 1

    def _commit(self, consumer: ConsumerHandle, *, wait: bool = False) -> None:
        """Commit the offsets of what was handed over."""
        if not self._next:
            return
        offsets = [TopicPartition(*place, offset) for place, offset in self._next.items()]
        self._next.clear()
        try:
            consumer.commit(offsets=offsets, asynchronous=not wait)
        except KafkaException as error:  # the records come again, to this member or to another one
            logger.warning("%s", self._health.failure(f"group {self._group}: offsets not committed", error.args[0]))

    def _assigned(self, consumer: ConsumerHandle, places: list[TopicPartition]) -> None:
        """Read new partitions."""
        try:
            places = _located(consumer, places)
        except KafkaException as error:  # then the library looks them up itself, a little later
            logger.warning("%s", self._health.failure(f"group {self._group}: offsets not known", error.args[0]))
        consumer.incremental_assign(places)
        # So that the next member that gets them continues from here, even if nothing is written meanwhile.
        self._next.update({(each.topic, each.partition): each.offset for each in places if each.offset >= 0})
        if not self._joined.done():
            self._joined.set_result(None)

    def _revoked(self, consumer: ConsumerHandle, places: list[TopicPartition]) -> None:
        """Give partitions back, with all offsets committed."""
        self._commit(consumer, wait=True)
        consumer.incremental_unassign(places)

    def _lost(self, consumer: ConsumerHandle, places: list[TopicPartition]) -> None:
        """Forget partitions that another member already has."""
        self._next.clear()
        consumer.incremental_unassign(places)


def _located(consumer: ConsumerHandle, places: list[TopicPartition]) -> list[TopicPartition]:
    """Determine now where to begin: the library would look up the end later, past what is written meanwhile."""
    until = time.monotonic() + _LOOK_UP
    while True:
        try:
            committed = consumer.committed(places, timeout=_LOOK_UP)
            new = [TopicPartition(each.topic, each.partition, OFFSET_END) for each in committed if each.offset < 0]
            ends = consumer.offsets_for_times(new, timeout=_LOOK_UP) if new else []
            return [each for each in committed if each.offset >= 0] + ends
        except KafkaException:
            # A topic that has just been created may have no leader yet.
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE)
