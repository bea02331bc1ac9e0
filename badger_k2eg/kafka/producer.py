"""``Writer``: a producer and the thread that takes its delivery reports. Imports errors."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException

from ..core.errors import KafkaError, WriterFull
from .broker_health import Watch
from .connection import KafkaConnection
from .inherited import Producer, make
from .late import Late
from .records import BrokerTrouble, Delivery

logger = logging.getLogger("badger_k2eg.kafka")

_PATIENCE = 0.05
# With these the library says that the broker has certainly not got it, or has not kept it.
_NOT_SENT = {
    Code._PURGE_QUEUE,
    Code._UNKNOWN_TOPIC,
    Code._UNKNOWN_PARTITION,
    Code.UNKNOWN_TOPIC_OR_PART,
    Code.TOPIC_EXCEPTION,
    Code.TOPIC_AUTHORIZATION_FAILED,
    Code.MSG_SIZE_TOO_LARGE,
    Code.RECORD_LIST_TOO_LARGE,
}

OnDelivery = Callable[[Delivery], None]


class Writer(Late):
    """Writes records; nobody waits for the broker, except in `close`. Any thread may use it.

    Nothing is opened before the first `send`. In a forked child it is as new; what the parent has under way is the
    parent's. How long a record may wait for its delivery is librdkafka's ``message.timeout.ms``, 5 s by default.

    :param name: for the thread and the log.
    """

    def __init__(self, connection: KafkaConnection, *, name: str = "writer") -> None:
        """Open nothing."""
        super().__init__(connection, name)

    def _begin(self) -> None:
        super()._begin()
        self._handle: _Handle | None = None

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        on_delivery: OnDelivery | None = None,
    ) -> KafkaError | None:
        """Hand a record over to be sent.

        :param on_delivery: called once, in the writer's thread, with what became of it; not called if an error is
            returned here. What it raises is logged.
        :returns: None, or why it certainly will not be sent: `MessageTooLarge`, `WriterFull`, `KafkaError` (closed).
        :raises SettingsError: for a wrong option.
        """
        with self._lock:
            # Held while the record is handed over, which never waits, so that none comes after the close.
            handle = self._opened()
            if handle is None:
                return KafkaError(f"{self._name} is closed")
            return handle.send(topic, value, key, headers, on_delivery)

    def connect(self) -> None:
        """Open the connection now, in the background, rather than with the first record.

        :raises SettingsError: for a wrong option.
        """
        with self._lock:
            self._opened()

    @property
    def waiting(self) -> int:
        """How many records are neither delivered nor given up."""
        handle = self._handle
        return handle.waiting if handle is not None else 0

    @property
    def trouble(self) -> BrokerTrouble | None:
        """The broker that does not answer at the moment; None as far as is known."""
        handle = self._handle
        return handle.watch.trouble if handle is not None else None

    def close(self, timeout: float = 2.0) -> None:
        """Wait so many seconds for what is under way, then give the rest up (`Delivery.error`). Idempotent."""
        with self._lock:
            self._closed = True
            handle = self._handle
        if handle is not None:
            handle.close(timeout)

    def _opened(self) -> _Handle | None:
        if self._closed:
            return None
        if self._handle is not None and self._handle.watch.fatal:
            # An idempotent producer that has lost count; what it still holds it gives up by itself.
            self._handle.end_soon()
            self._handle = None
        if self._handle is None:
            self._handle = _Handle(self._connection, self._name)
        return self._handle


class _Handle:
    """A producer with its thread, from the start to the close."""

    def __init__(self, connection: KafkaConnection, name: str) -> None:
        self.watch = Watch(name, connection.bootstrap)
        self._name = name
        # The time at which what still waits is given up; None: not closed.
        self._until: float | None = None
        self._producer: Any = make(Producer, {**connection.producer(), **self.watch.callbacks})
        self._thread = threading.Thread(target=self._run, name=f"kafka {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many records are neither delivered nor given up."""
        producer = self._producer
        return len(producer) if producer is not None else 0

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        on_delivery: OnDelivery | None,
    ) -> KafkaError | None:
        """Hand it to the library."""
        what = f"record for topic {topic}"

        def report(error: Code | None, message: Any) -> None:
            delivery = self._delivery(what, error, message)
            try:
                if on_delivery is not None:
                    on_delivery(delivery)
            except Exception:  # the caller's own; the next report is for others
                logger.exception("%s: the callback failed for a record on %s", self._name, topic)

        try:
            self._producer.produce(topic, value, key, headers=list(headers), on_delivery=report)
        except BufferError as error:
            return WriterFull(f"{what}: {error}")
        except KafkaException as error:
            return self.watch.failure(what, error.args[0])
        return None

    def close(self, timeout: float) -> None:
        """Wait for what is under way and end the thread."""
        self._until = time.monotonic() + timeout
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def end_soon(self) -> None:
        """End the thread without waiting for it."""
        self._until = time.monotonic()

    def _delivery(self, what: str, error: Code | None, message: Any) -> Delivery:
        if error is None:
            return Delivery(message.topic(), message.partition(), message.offset())
        failure = self.watch.failure(what, error)
        return Delivery(message.topic(), error=failure, sent=error.code() not in _NOT_SENT)

    def _run(self) -> None:
        producer = self._producer
        while self._until is None or (len(producer) and time.monotonic() < self._until):
            producer.poll(_PATIENCE)
        producer.purge()
        while len(producer):
            producer.poll(_PATIENCE)
        # The last reference ends the library's own threads.
        self._producer = None
