"""A K2EG client that is nothing but the wire: it sends what it is given, and keeps what comes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self

from badger_k2eg.core.deadline import Deadline
from badger_k2eg.k2eg import codec
from badger_k2eg.kafka import KafkaRecord, Producer, TopicReader, Topics
from badger_k2eg.testing.broker import Broker

PATIENCE = 15.0
_ids = itertools.count()


class Wire:
    def __init__(self, broker: Broker, command_topic: str) -> None:
        self._broker = broker
        self._command_topic = command_topic
        # Reentrant: what is waited for looks at the records.
        self._changed = threading.Condition()
        #: All that came, with the monotonic time at which it did.
        self.records: list[tuple[float, KafkaRecord]] = []
        self._writer = Producer(broker.connection, name="wire")
        # An idempotent producer takes half a second to its first record.
        self._writer.connect()
        self._reader = TopicReader(broker.connection, self._keep, name="wire")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()
        self._writer.close()

    def _keep(self, record: KafkaRecord) -> None:
        with self._changed:
            self.records.append((time.monotonic(), record))
            self._changed.notify_all()

    def listen(self, *topics: str) -> None:
        """Make topics and keep from now on what is written to them."""
        for topic in topics:
            self._broker.create_topic(topic)
        self._reader.assign(topics, Deadline(PATIENCE))

    def listen_last(self, *topics: str) -> None:
        """Keep the last record of topics that is there already, and what follows."""
        asking = Topics(self._broker.connection)
        ends = asking.watermarks(topics, Deadline(PATIENCE))
        asking.close()
        for topic in topics:
            starts = {partition: max(first, end - 1) for partition, (first, end) in ends[topic].items()}
            self._reader.assign([topic], Deadline(PATIENCE), starts)

    def ignore(self, topics: Collection[str]) -> None:
        self._reader.unassign(topics)

    def send(self, command: codec.Command | bytes, key: bytes | None = None) -> None:
        raw = command if isinstance(command, bytes) else codec.encode_command(command)
        assert self._writer.send(self._command_topic, raw, key=key) is None

    def ask(self, kind: type[codec.Command], *, topic: str, timeout: float = PATIENCE, **fields: Any) -> codec.Message:
        """Send a command and give its reply."""
        reply_id = f"id-{next(_ids)}"
        self.send(kind(reply_topic=topic, reply_id=reply_id, **fields))
        (reply,) = self.until(lambda: self.replies(reply_id), timeout)[:1]
        return reply

    def replies(self, reply_id: str) -> list[codec.Message]:
        return [m for m in self.messages() if getattr(m, "reply_id", None) == reply_id]

    def messages(self, topic: str | None = None) -> list[codec.Message]:
        """All that came, decoded; in the order of a topic."""
        with self._changed:
            records = [record for _, record in self.records if topic in (None, record.topic)]
        messages = [codec.decode_record(record.value, record.headers) for record in records]
        assert not any(isinstance(message, codec.BadRecord) for message in messages)
        return messages

    def events(self, topic: str) -> list[codec.MonitorEvent]:
        return [message for message in self.messages(topic) if isinstance(message, codec.MonitorEvent)]

    def until(self, found: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Wait until something is found; gives it, or fails."""
        limit = time.monotonic() + timeout
        with self._changed:
            while not (result := found()):
                left = limit - time.monotonic()
                assert left > 0, f"not in {timeout} s; what came: {str(self.records)[-1500:]}"
                self._changed.wait(left)
        return result

    def wait_count(self, count: int, timeout: float) -> None:
        """Wait until so many records have come, or the time is over."""
        limit = time.monotonic() + timeout
        with self._changed:
            while len(self.records) < count and (left := limit - time.monotonic()) > 0:
                self._changed.wait(left)

    def clear(self) -> None:
        with self._changed:
            self.records.clear()
