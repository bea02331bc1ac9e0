"""``Owner``: one consumer and the only thread that ever touches it. Imports errors.

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
from .broker_health import Watch
from .inherited import Consumer, make
from .records import KafkaRecord

logger = logging.getLogger("badger_k2eg.kafka")

T = TypeVar("T")

# Seconds that a request of another thread waits at most until it is heard.
_PATIENCE = 0.01
# Seconds that a close waits for the brokers to be told.
_CLOSING = 5.0
# Records handed over before `when_idle` is called though more are waiting.
_MOST_IN_A_ROW = 100


class Owner:
    """A consumer with its thread, from the start to `close`.

    :param configuration: the consumer's.
    :param callback: gets each record in the owner's thread; what it raises is logged and counted.
    :param when_idle: called in the thread with the consumer whenever no record waits, and at times when some always do.
    :raises SettingsError: for a wrong option.
    """

    def __init__(
        self,
        configuration: dict[str, Any],
        callback: Callable[[KafkaRecord], None],
        watch: Watch,
        name: str,
        when_idle: Callable[[Consumer], None] = lambda consumer: None,
    ) -> None:
        """Open the consumer and start the thread."""
        self.callback_errors = 0
        self._callback = callback
        self._watch = watch
        self._name = name
        self._when_idle = when_idle
        self._requests: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._told: set[tuple[str, int]] = set()
        self._closed = False
        # A close has waited in vain; and for what, in words.
        self._left = False
        self._busy = "its callback has not ended"
        # Guards the step from open to closed: a request is either served or refused.
        self._gate = threading.Lock()
        self._consumer: Any = make(Consumer, {**configuration, **watch.callbacks})
        self._thread = threading.Thread(target=self._run, name=f"kafka {name}", daemon=True)
        self._thread.start()

    def request(self, work: Callable[[Consumer], T]) -> Future[T]:
        """Let the thread do this with the consumer, soon.

        :raises KafkaError: once closed.
        """
        future: Future[T] = Future()

        def serve() -> None:
            try:
                future.set_result(work(self._consumer))
            except BaseException as error:  # it belongs to the one who asked
                future.set_exception(error)

        with self._gate:
            if self._closed:
                raise KafkaError(f"{self._name} is closed")
            self._requests.put(serve)
        return future

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller is the owner's thread, that is, inside the callback."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """End consumer and thread; what was asked before is served, and no callback begins any more. Idempotent.

        In bounded time: a thread that does not end by then is left to itself, with a warning.
        """
        with self._gate:
            if not self._closed:
                self._closed = True
                self._requests.put(None)
        if self.is_own_thread or self._left:
            return
        self._thread.join(_CLOSING)
        if self._thread.is_alive():
            self._left = True
            logger.warning("%s: %s; it is closed as soon as that is over", self._name, self._busy)

    def _run(self) -> None:
        try:
            in_a_row = 0
            while self._serve():
                message = self._consumer.poll(_PATIENCE)
                in_a_row = in_a_row + 1 if message is not None else 0
                if in_a_row % _MOST_IN_A_ROW == 0:
                    self._when_idle(self._consumer)
                if message is None or self._closed:
                    continue
                if message.error() is not None:
                    self._tell(message)
                else:
                    self._hand_over(message)
        except Exception:  # a defect of ours must be seen, and must not leave the consumer open
            logger.exception("%s: the thread ends", self._name)
            with self._gate:
                self._closed = True
            self._serve()
        finally:
            # The library waits without a bound for what the brokers do not answer any more.
            self._busy = "the broker does not answer"
            self._consumer.close()
            self._consumer = None

    def _serve(self) -> bool:
        while not self._requests.empty():
            serve = self._requests.get()
            if serve is None:
                return False
            serve()
        return True

    def _hand_over(self, message: Any) -> None:
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
        self._told.discard((record.topic, record.partition))
        try:
            self._callback(record)
        except Exception:  # the caller's own; the next record is for others
            self.callback_errors += 1
            logger.exception("%s: the callback failed for %s[%d] @%d", self._name, *_place(record))

    def _tell(self, message: Any) -> None:
        # Once per partition until it is well again: the library repeats itself many times a second.
        place = (message.topic(), message.partition())
        if place not in self._told:
            self._told.add(place)
            logger.warning("%s: %s", self._name, self._watch.failure(f"topic {message.topic()}", message.error()))


def _place(record: KafkaRecord) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset
