"""``GroupReader``: a member of a consumer group. Imports deadline."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from ..core.deadline import Deadline
from .connection import KafkaConnection
from .consuming import Consuming
from .owner import Owner
from .records import KafkaRecord
from .topics import Topics
from .waiting import wait_all

logger = logging.getLogger("badger_k2eg.kafka")

_GROUP = {
    "partition.assignment.strategy": "cooperative-sticky",
    "auto.offset.reset": "latest",
    # As short as a broker allows: so long nobody reads what a member had that was killed.
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 2000,
}
# The ends of the partitions at hand at the start of a group; seconds.
_LOOK_UP = 5.0
_PAUSE = 0.05


class GroupReader(Consuming):
    """Reads topics as a member of a consumer group: every record goes to one member.

    The offsets are committed after the records were handed over: after a crash, or when members come and go, some may
    come twice. What a group has never read begins at the end (``auto.offset.reset=latest``); a known group goes on
    where it was, through all that was written meanwhile. Protocol section 1.3. In a forked child it is as new: not
    started.

    :param group: the ``group.id``.
    :param callback: as in `Reader`.
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
        super()._begin()
        # Of the owner's thread alone: the next offset of each partition, where it is not committed yet.
        self._next: dict[tuple[str, int], int] = {}
        self._joined: Future[None] = Future()

    def start(self, deadline: Deadline) -> None:
        """Join the group. When it returns, the positions are fixed: what is written from now on is read by a member.

        A member for which no partition is left joins all the same, and gets some when another one leaves.

        :raises TopicMissing: if there is no such topic.
        :raises BrokerUnreachable: see `Reader.assign`, also for the others.
        """
        topics = Topics(self._connection)
        try:
            topics.partitions(self._names, deadline)
        finally:
            topics.close()
        configuration = {**_GROUP, **self._connection.consumer(), "group.id": self._group}
        self._opened(configuration, self._hand_over, self._commit)
        if not wait_all([self._joined], deadline, f"joining group {self._group}"):
            raise self._watch.timed_out(f"group {self._group} cannot be joined")

    def _begun(self, owner: Owner) -> None:
        owner.request(self._subscribe)

    # The owner's thread.

    def _subscribe(self, consumer: Consumer) -> None:
        consumer.subscribe(self._names, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def _hand_over(self, record: KafkaRecord) -> None:
        try:
            self._callback(record)
        finally:
            self._next[record.topic, record.partition] = record.offset + 1

    def _commit(self, consumer: Consumer, *, wait: bool = False) -> None:
        if not self._next:
            return
        offsets = [TopicPartition(*place, offset) for place, offset in self._next.items()]
        self._next.clear()
        try:
            consumer.commit(offsets=offsets, asynchronous=not wait)
        except KafkaException as error:  # the records come again, to us or to another member
            logger.warning("%s", self._watch.failure(f"group {self._group}: offsets not committed", error.args[0]))

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        try:
            places = _located(consumer, places)
        except KafkaException as error:  # then the library looks for them itself, a little later
            logger.warning("%s", self._watch.failure(f"group {self._group}: offsets not known", error.args[0]))
        consumer.incremental_assign(places)
        # So that whoever gets them next goes on from here, even if nothing is written meanwhile.
        self._next.update({(each.topic, each.partition): each.offset for each in places if each.offset >= 0})
        if not self._joined.done():
            self._joined.set_result(None)

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._commit(consumer, wait=True)
        consumer.incremental_unassign(places)

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        # Another member has them already.
        self._next.clear()
        consumer.incremental_unassign(places)


def _located(consumer: Consumer, places: list[TopicPartition]) -> list[TopicPartition]:
    """Fix where to begin now: the library would look for the end later, past what is written meanwhile."""
    until = time.monotonic() + _LOOK_UP
    while True:
        try:
            committed = consumer.committed(places, timeout=_LOOK_UP)
            new = [TopicPartition(each.topic, each.partition, OFFSET_END) for each in committed if each.offset < 0]
            ends = consumer.offsets_for_times(new, timeout=_LOOK_UP) if new else []
            return [each for each in committed if each.offset >= 0] + ends
        except KafkaException:
            # A topic that was just made may have no leader yet.
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE)
