"""Monitors of a gateway: updates of PVs as events on topics.

A *stream* publishes one PV to one topic. K2EG has no command to end one; if an expiry is set, a stream is dropped when
no client has repeated its command in that time. Callbacks of PVs write to Kafka directly; see ``Publisher`` for why
that is safe.

A client that starts to read the topic after the reply, from the end of the topic, misses the first value, which is the
only one of a static PV. So some time after each command the value is published again, unless there was a newer one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from ..control import Reader
from ..core import clock
from ..core.backend import Subscription, Update
from ..core.deadline import Deadline
from ..core.errors import ControlError, KafkaError
from ..core.model import Reading
from ..k2eg.codec import Monitor, MonitorEvent, MultiMonitor, PvUri, Serialization, monitor_topic, parse_uri
from ..kafka import Topics
from .publisher import Publisher
from .pv_access import address_of, stale
from .scheduler import Scheduler

logger = logging.getLogger(__name__)

#: Seconds for the broker to create or delete a topic.
TOPIC_PATIENCE = 5.0
#: The retention that the real gateway sets: an hour, and at most 50 MiB.
RETENTION: Mapping[str, str] = {"retention.ms": "3600000", "retention.bytes": "52428800"}
_PARTITIONS = 3
# Seconds after a command in which a client that waits for the reply has started to read the topic.
_JOINED = 2.5


class Monitors:
    """The streams of one gateway.

    :param expiry: seconds after which a stream is dropped unless a client repeats its command; None for never.
    :param purge: whether its topic is deleted then.
    """

    def __init__(
        self,
        reader: Reader,
        publisher: Publisher,
        topics: Topics,
        scheduler: Scheduler,
        expiry: float | None,
        *,
        purge: bool,
    ) -> None:
        """Monitor nothing yet."""
        self._reader = reader
        self._publisher = publisher
        self._topics = topics
        self._scheduler = scheduler
        self._expiry = expiry
        self._purge = purge
        self._lock = threading.Lock()
        self._streams: dict[tuple[str, str], _Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def monitor(self, command: Monitor) -> None:
        """Start a stream, or publish its present value again. In K2EG a malformed URI is not an error."""
        if (uri := parse_uri(command.pv_name)) is not None:
            topic = command.monitor_dest_topic or command.reply_topic
            self._make(topic)
            self._want(uri, topic, command.serialization)
        self._publisher.acknowledge(command, 0, f"Monitor activated for {command.pv_name}")

    def monitor_many(self, command: MultiMonitor) -> None:
        """Start the streams of all well-formed URIs, each to the topic of its name."""
        uris = [uri for uri in map(parse_uri, command.pv_name_list) if uri is not None]
        self._make(*[monitor_topic(uri.name) for uri in uris])
        for uri in uris:
            self._want(uri, monitor_topic(uri.name), command.serialization)
        self._publisher.acknowledge(command, 0, "Monitor activated")

    def _want(self, uri: PvUri, topic: str, serialization: Serialization) -> None:
        key = uri.name, topic
        with self._lock:
            stream = self._streams.get(key)
            if is_new := stream is None:
                # The first command's serialization stays in force.
                stream = self._streams[key] = _Stream(uri, topic, serialization, self._publisher)
            stream.wanted = clock.monotonic()
        if is_new:
            try:
                stream.open(self._reader)
            except ControlError:
                with self._lock:
                    self._streams.pop(key, None)
                raise
            if self._expiry is not None:
                self._scheduler.call_later(self._expiry, lambda: self._expire(key))
        else:
            stream.repeat(self._reader)
        # The first value may still be on its way here; it too may be missed by the client.
        sent = max(stream.sent, 1)
        self._scheduler.call_later(_JOINED, lambda: self._repeat_unless_news(key, sent))

    def _repeat_unless_news(self, key: tuple[str, str], sent: int) -> None:
        """Publish the present value of a stream again, unless there was an event since (scheduler)."""
        with self._lock:
            stream = self._streams.get(key)
        if stream is not None and stream.sent == sent:
            stream.repeat(self._reader)

    def _make(self, *topics: str) -> None:
        try:
            self._topics.create_many(topics, Deadline(TOPIC_PATIENCE), partitions=_PARTITIONS, config=RETENTION)
        except KafkaError as error:
            # The broker may create them with the first event.
            logger.warning("cannot create the topics of monitors: %s", error)

    def _expire(self, key: tuple[str, str]) -> None:
        """Drop an expired stream, or look again when it is due (scheduler)."""
        expiry = self._expiry or 0.0
        with self._lock:
            stream = self._streams.get(key)
            if stream is None:
                return
            due = stream.wanted + expiry
            if due > clock.monotonic():
                self._scheduler.call_at(due, lambda: self._expire(key))
                return
            del self._streams[key]
            shared = any(topic == stream.topic for _, topic in self._streams)
        stream.close()
        logger.info("dropped the monitor of %s to topic %s: no client has asked for it in %g s", *key, expiry)
        if self._purge and not shared:
            try:
                self._topics.delete(stream.topic, Deadline(TOPIC_PATIENCE))
            except KafkaError as error:
                logger.warning("cannot delete topic %s: %s", stream.topic, error)

    def repeat(self) -> None:
        """Publish the present value of every PV again: events may be lost after a broker outage."""
        for stream in self._all():
            stream.repeat(self._reader)

    def close(self) -> None:
        """End every stream."""
        for stream in self._all():
            stream.close()

    def _all(self) -> list[_Stream]:
        with self._lock:
            return list(self._streams.values())


class _Stream:
    """A PV that is published to a topic."""

    def __init__(self, uri: PvUri, topic: str, serialization: Serialization, publisher: Publisher) -> None:
        self.topic = topic
        #: When a client last asked for it, monotonic seconds.
        self.wanted = 0.0
        #: Number of published events.
        self.sent = 0
        self._uri = uri
        self._serialization = serialization
        self._publisher = publisher
        self._subscription: Subscription | None = None
        self._last: Reading | None = None

    def open(self, reader: Reader) -> None:
        self._subscription = reader.monitor(address_of(self._uri), self._tell)

    def repeat(self, reader: Reader) -> None:
        # Through the same subscription, so that an older value never follows a newer one.
        reader.monitor(address_of(self._uri), self._tell).close()

    def close(self) -> None:
        if self._subscription is not None:
            self._subscription.close()

    def _tell(self, update: Update) -> None:
        if isinstance(update, Reading):
            self._last, tree = update, update.tree
        elif self._last is not None:
            tree = stale(self._last.tree)
        else:
            return
        self.sent += 1
        self._publisher.publish(self.topic, self._uri.name, MonitorEvent(self._uri.name, tree), self._serialization)
