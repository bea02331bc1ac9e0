"""``ConsumerThread``, the only thread that touches a consumer, and ``LazyConsumer``, the base of all that read.

Other threads hand their requests over by a queue, and read plain attributes.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ..core.errors import KafkaError
from .broker_health import BrokerHealth
from .handles import ConsumerHandle, LazyHandle, make
from .records import BrokerTrouble, KafkaRecord
from .waker import Waker

logger = logging.getLogger("badger_k2eg.kafka")

T = TypeVar("T")

# Seconds that a request of another thread waits at most where the library cannot wake this one.
_SLICE = 0.01
# Seconds that a close waits until the brokers are told.
_CLOSING = 5.0
# Records handed over before `when_idle` is called although more are waiting.
_MOST_IN_A_ROW = 100


class ConsumerThread:
    """A consumer with its thread, from the start to `close`.

    :param configuration: of the consumer.
    :param callback: called with each record in this thread; what it raises is logged and counted.
    :param when_idle: called in this thread with the consumer whenever no record waits, and also now and then while
        records always wait.
    :raises SettingsError: for a wrong option.
    """

    def __init__(
        self,
        configuration: dict[str, Any],
        callback: Callable[[KafkaRecord], None],
        health: BrokerHealth,
        name: str,
        when_idle: Callable[[ConsumerHandle], None] = lambda consumer: None,
    ) -> None:
        """Open the consumer and start the thread."""
        self.callback_errors = 0
        self._callback = callback
        self._health = health
        self._name = name
        self._when_idle = when_idle
        self._requests: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._reported: set[tuple[str, int]] = set()
        self._closed = False
        # Whether a close has waited in vain, and for what.
        self._abandoned = False
        self._busy = "its callback has not ended"
        # Guards the step from open to closed: a request is either served or refused.
        self._gate = threading.Lock()
        self._consumer: Any = make(ConsumerHandle, {**configuration, **health.callbacks})
        self._waker = Waker(self._consumer, _SLICE)
        self._thread = threading.Thread(target=self._run, name=f"kafka {name}", daemon=True)
        self._thread.start()

    def request(self, work: Callable[[ConsumerHandle], T]) -> Future[T]:
        """Ask the thread to do this with the consumer, at once.

        :raises KafkaError: once closed.
        """
        future: Future[T] = Future()

        def serve() -> None:
            try:
                future.set_result(work(self._consumer))
            except BaseException as error:  # for the caller to see
                future.set_exception(error)

        with self._gate:
            if self._closed:
                raise KafkaError(f"{self._name} is closed")
            self._requests.put(serve)
        self._waker.wake()
        return future

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller is this thread, that is, inside the callback."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """End the consumer and the thread; earlier requests are served, and no callback starts any more. Idempotent.

        Takes bounded time: a thread that does not end by then is abandoned, with a warning.
        """
        with self._gate:
            if not self._closed:
                self._closed = True
                self._requests.put(None)
        self._waker.wake()
        if self.is_own_thread or self._abandoned:
            return
        self._thread.join(_CLOSING)
        if self._thread.is_alive():
            self._abandoned = True
            logger.warning("%s: %s; it is closed as soon as that is over", self._name, self._busy)

    def _run(self) -> None:
        """Serve requests and hand records over until the close."""
        try:
            in_a_row = 0
            while self._serve():
                message = self._consumer.poll(self._waker.patience)
                in_a_row = in_a_row + 1 if message is not None else 0
                if in_a_row % _MOST_IN_A_ROW == 0:
                    self._when_idle(self._consumer)
                if message is None:
                    self._waker.sleep()
                elif self._closed:
                    continue
                elif message.error() is not None:
                    self._report(message)
                else:
                    self._hand_over(message)
        except Exception:  # a defect of this package must be seen, and must not leave the consumer open
            logger.exception("%s: the thread ends because of an unexpected error", self._name)
            with self._gate:
                self._closed = True
            self._serve()
        finally:
            # The library waits without a bound for brokers that no longer answer.
            self._busy = "the broker does not answer"
            self._waker.close()
            self._consumer.close()
            self._consumer = None

    def _serve(self) -> bool:
        """Serve all requests; return whether to go on."""
        while not self._requests.empty():
            serve = self._requests.get()
            if serve is None:
                return False
            serve()
        return True

    def _hand_over(self, message: Any) -> None:
        """Call back with a record."""
        kind, milliseconds = message.timestamp()
        record = KafkaRecord(
            message.topic(),
            message.partition(),
            message.offset(),
            message.key(),
            message.value(),
            tuple(message.headers() or ()),
            milliseconds / 1000.0 if kind else math.nan,
        )
        self._reported.discard((record.topic, record.partition))
        try:
            self._callback(record)
        except Exception:  # raised by the caller's code; the next record may be for another one
            self.callback_errors += 1
            place = record.topic, record.partition, record.offset
            logger.exception("%s: the callback failed for %s[%d] @%d", self._name, *place)

    def _report(self, message: Any) -> None:
        """Log an error once per partition until it works again: the library repeats it many times a second."""
        place = (message.topic(), message.partition())
        if place not in self._reported:
            self._reported.add(place)
            logger.warning("%s: %s", self._name, self._health.failure(f"topic {message.topic()}", message.error()))


class LazyConsumer(LazyHandle):
    """Base of all that read: a consumer with its thread, opened when it is needed and closed once."""

    def _begin(self) -> None:
        """Start without a thread."""
        super()._begin()
        self._health = BrokerHealth(self._name, self._connection.bootstrap)
        self._thread: ConsumerThread | None = None

    @property
    def trouble(self) -> BrokerTrouble | None:
        """The broker that does not answer at the moment; None if all do, as far as is known."""
        return self._health.trouble

    @property
    def callback_errors(self) -> int:
        """How many times the callback raised."""
        thread = self._thread
        return thread.callback_errors if thread is not None else 0

    def close(self) -> None:
        """End the thread and the consumer, in bounded time. Idempotent."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.close()

    def _opened(
        self,
        configuration: dict[str, Any],
        callback: Callable[[KafkaRecord], None],
        when_idle: Callable[[ConsumerHandle], None] = lambda consumer: None,
    ) -> ConsumerThread:
        """Return the consumer's thread; start it first if there is none.

        :raises KafkaError: once closed.
        :raises SettingsError: for a wrong option.
        """
        with self._lock:
            if self._closed:
                raise KafkaError(f"{self._name} is closed")
            if self._thread is None:
                self._thread = ConsumerThread(configuration, callback, self._health, self._name, when_idle)
                self._started(self._thread)
            return self._thread

    def _started(self, thread: ConsumerThread) -> None:
        """Make the first request of a new thread."""
