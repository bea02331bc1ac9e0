"""``Producer``: writes records, with a thread for the delivery reports."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException

from ..core.errors import KafkaError, WriterFull
from .broker_health import BrokerHealth
from .connection import KafkaConnection
from .handles import LazyHandle, ProducerHandle, make
from .records import BrokerTrouble, Delivery
from .waker import Waker

logger = logging.getLogger("badger_k2eg.kafka")

# Seconds that a delivery report waits at most where the library cannot wake the thread.
_SLICE = 0.05
# With these codes the library says that the broker has certainly not received the record, or has not kept it.
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


class Producer(LazyHandle):
    """Writes records; no call but `close` waits for the broker. Any thread may use it.

    Opens nothing before the first `send`. A forked child starts without a connection; records that are under way stay
    with the parent. A record is given up after librdkafka's ``message.timeout.ms``, 5 s by default.

    :param name: for the thread and the log.
    """

    def __init__(self, connection: KafkaConnection, *, name: str = "producer") -> None:
        """Open nothing."""
        super().__init__(connection, name)

    def _begin(self) -> None:
        """Start without a thread."""
        super()._begin()
        self._thread: _ProducerThread | None = None

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        on_delivery: OnDelivery | None = None,
    ) -> KafkaError | None:
        """Send a record, without waiting for it.

        :param on_delivery: called once, in the producer's thread, with what became of the record; not called if an
            error is returned here. What it raises is logged.
        :returns: None, or why the record is certainly not sent: `MessageTooLarge`, `WriterFull`, `KafkaError` (closed).
        :raises SettingsError: for a wrong option.
        """
        with self._lock:
            # Held while the record is handed over, which never waits, so that none follows the close.
            thread = self._opened()
            if thread is None:
                return KafkaError(f"{self._name} is closed")
            return thread.send(topic, value, key, headers, on_delivery)

    def connect(self) -> None:
        """Open the connection now, in the background, rather than with the first record.

        :raises SettingsError: for a wrong option.
        """
        with self._lock:
            self._opened()

    @property
    def waiting(self) -> int:
        """How many records are neither delivered nor given up."""
        thread = self._thread
        return thread.waiting if thread is not None else 0

    @property
    def trouble(self) -> BrokerTrouble | None:
        """The broker that does not answer at the moment; None if all do, as far as is known."""
        thread = self._thread
        return thread.health.trouble if thread is not None else None

    def close(self, timeout: float = 2.0) -> None:
        """Wait for the records under way, this many seconds, then give up the rest (`Delivery.error`). Idempotent."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.end(timeout)
            thread.join()

    def _opened(self) -> _ProducerThread | None:
        """Return the thread, started if need be; None once closed."""
        if self._closed:
            return None
        if self._thread is not None and self._thread.health.fatal:
            # An idempotent producer that has lost count gives up by itself whatever it still holds.
            self._thread.end(0.0)
            self._thread = None
        if self._thread is None:
            self._thread = _ProducerThread(self._connection, self._name)
        return self._thread


class _ProducerThread:
    """A producer with its thread, from the start to the end."""

    def __init__(self, connection: KafkaConnection, name: str) -> None:
        self.health = BrokerHealth(name, connection.bootstrap)
        self._name = name
        # The time at which all that still waits is given up; infinite until the thread is told to end.
        self._until = math.inf
        self._producer: Any = make(ProducerHandle, {**connection.producer(), **self.health.callbacks})
        self._waker = Waker(self._producer, _SLICE)
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
        """Pass a record on to the library."""
        what = f"record for topic {topic}"

        def report(error: Code | None, message: Any) -> None:
            delivery = self._delivery(what, error, message)
            try:
                if on_delivery is not None:
                    on_delivery(delivery)
            except Exception:  # raised by the caller's code; the next report is for another one
                logger.exception("%s: the callback failed for a record on %s", self._name, topic)

        try:
            self._producer.produce(topic, value, key, headers=list(headers), on_delivery=report)
        except BufferError as error:
            return WriterFull(f"{what}: {error}")
        except KafkaException as error:
            return self.health.failure(what, error.args[0])
        return None

    def end(self, timeout: float) -> None:
        """Tell the thread to end as soon as nothing is under way, and at the latest after this many seconds."""
        self._until = time.monotonic() + timeout
        self._waker.wake()

    def join(self) -> None:
        """Wait for the end of the thread, except in its own callback."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _delivery(self, what: str, error: Code | None, message: Any) -> Delivery:
        """Translate the library's report on a record."""
        if error is None:
            return Delivery(message.topic(), message.partition(), message.offset())
        failure = self.health.failure(what, error)
        return Delivery(message.topic(), error=failure, sent=error.code() not in _NOT_SENT)

    def _is_over(self) -> bool:
        """Return whether it was told to end, and nothing is under way or its time is over."""
        return self._until < math.inf and (not len(self._producer) or time.monotonic() >= self._until)

    def _run(self) -> None:
        """Take the delivery reports until the end."""
        producer = self._producer
        while not self._is_over():
            producer.poll(self._waker.patience)
            if not self._is_over():
                self._waker.sleep(self._until - time.monotonic())
        self._waker.close()
        producer.purge()
        while len(producer):
            producer.poll(_SLICE)
        # The last reference ends the library's own threads.
        self._producer = None
