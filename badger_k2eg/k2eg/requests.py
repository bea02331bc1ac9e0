"""Requests to a gateway over Kafka: commands with their replies, and the topics that a client listens to.

Owns one reader, one writer, the table of pending requests and the counters. Handles commands and messages as such,
without knowing what they are for. Imports kafka, the codec and the rooms below.

Threads::

    the caller's        sends, and waits on the queue of its own exchange until one absolute deadline
    "k2eg replies"      the reader's: decodes, finds the waiting request or the listener, appends to a queue
    "k2eg commands"     the writer's: puts delivery reports into the same queues
"""

from __future__ import annotations

import itertools
import logging
import math
import queue
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..core import clock, fork
from ..core.deadline import Deadline
from ..core.errors import CallCancelled, KafkaError, OperationTimeout, TopicMissing, TopicRefused
from ..kafka import BrokerTrouble, Delivery, KafkaConnection, KafkaRecord, Producer, TopicReader, Topics
from .codec import (
    BadRecord,
    Command,
    Message,
    Reply,
    SnapshotDone,
    ValueReply,
    command_key,
    decode_record,
    encode_command,
)
from .environment import K2egEnvironment

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

#: Makes a command, given ``reply_topic=`` and ``reply_id=``.
MakeCommand = Callable[..., Command]
#: Called in the reader's thread with a message of a topic and its bytes; must only hand over.
Listener = Callable[[Message, bytes], None]

# So many ids of abandoned requests are remembered: a reply to one of them is late, not foreign.
_REMEMBERED = 10_000
# So many bad records are logged; further ones are only counted.
_LOGGED = 20
_LONGEST_WAIT = 3600.0
_NEW_TOPIC_PAUSE = 0.05
# Offsets by partition. A broker that is busy creating topics is slow to tell the offsets of a new one.
_FROM_THE_START = dict.fromkeys(range(256), 0)


@dataclass(slots=True)
class Counters:
    """Counts of what a client has seen since it was made.

    :ivar requests: commands sent.
    :ivar timeouts: requests that were not answered in time.
    :ivar late: replies to such requests that came afterwards; dropped.
    :ivar foreign: replies to other clients on the same topic; dropped.
    :ivar bad_records: records that are not K2EG messages; dropped.
    :ivar lost: messages of monitors and snapshots dropped because a handler was too slow.
    """

    requests: int = 0
    timeouts: int = 0
    late: int = 0
    foreign: int = 0
    bad_records: int = 0
    lost: int = 0


@dataclass(slots=True, eq=False)
class Ticket:
    """A pending request.

    :ivar what: the request in words, for messages.
    :ivar news: receives replies and failed deliveries: ``(ticket, message, bytes of the record)``.
    """

    reply_id: str
    what: str
    news: queue.SimpleQueue[Any]
    sent_at: float
    delivery: Delivery | None = None


class Link:
    """The connection of one application to the gateways of an environment, opened at the first use.

    Safe to use from many threads. The parent's connection survives a fork; a child opens its own.

    :param unique_reply_topic: use a reply topic for this process alone, which is deleted on close.
    """

    def __init__(self, environment: K2egEnvironment, app_name: str, *, unique_reply_topic: bool = False) -> None:
        """Open nothing yet.

        :raises SettingsError: when the reply topic cannot have this name.
        """
        self.environment = environment
        self.app_name = app_name
        self._shared_topic = environment.reply_topic_of(app_name)
        self._unique = unique_reply_topic
        connection = KafkaConnection(environment.broker, environment.kafka)
        self.topics = Topics(connection)
        self.reader = TopicReader(connection, self._received, topics=self.topics, name="k2eg replies")
        self.writer = Producer(connection, name="k2eg commands")
        self.counters = Counters()
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        # Held for an instant only.
        self._lock = threading.Lock()
        # Held while opening: other threads wait for it, each until its own deadline.
        self._opening = threading.Lock()
        self._opened = False
        self._closed = False
        # Unique to this process: a forked child that used its parent's ids would take its parent's replies.
        self._identity = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._pending: dict[str, Ticket] = {}
        self._given_up: OrderedDict[str, None] = OrderedDict()
        self._listeners: dict[str, Listener] = {}
        self._heard_at = 0.0
        #: By how many seconds the last record's timestamp was ahead of this host's clock; NaN before the first.
        self.ahead = math.nan
        self.reply_topic = f"{self._shared_topic}-{self._identity}" if self._unique else self._shared_topic

    # -- life -----------------------------------------------------------------------------------------------------

    def open(self, deadline: Deadline) -> None:
        """Connect and start reading the reply topic, unless it is open already.

        :raises OperationTimeout: when no broker answers in time.
        :raises KafkaError: when the broker refuses the client, or the reply topic is missing and cannot be created.
        """
        if self._opened:
            return
        if not self._opening.acquire(timeout=_bounded(deadline.remaining())):
            deadline.check("connecting")
            raise OperationTimeout(f"still connecting to broker {self.environment.broker}", "broker", sent=False)
        try:
            if self._opened:
                return
            if self._closed:
                raise KafkaError("the K2EG client is closed")
            self.writer.connect()
            try:
                self.reader.assign([self.reply_topic], deadline)
            except TopicMissing:
                self._make_reply_topic(deadline)
            self._opened = True
        except TimeoutError as error:
            raise OperationTimeout(str(error), "broker", sent=False) from None
        finally:
            self._opening.release()

    def _make_reply_topic(self, deadline: Deadline) -> None:
        try:
            self.topics.create(self.reply_topic, deadline, config={"retention.ms": "3600000"})
        except TopicRefused as error:
            raise TopicRefused(f"reply topic {self.reply_topic} does not exist, and {error}", error.broker) from None
        self.reader.assign([self.reply_topic], deadline)

    def close(self) -> None:
        """End the threads. A pending request times out, or is cancelled by its caller. Idempotent."""
        fork.unregister(self)
        with self._lock:
            closed, self._closed = self._closed, True
            opened, self._opened = self._opened, False
        if closed:
            return
        self.reader.close()
        if opened and self._unique:
            try:
                self.topics.delete(self.reply_topic, Deadline(2.0))
            except (KafkaError, TimeoutError) as error:
                logger.info("the reply topic %s was not deleted: %s", self.reply_topic, error)
        self.writer.close()
        self.topics.close()

    def before_fork(self) -> None:
        """Do nothing: the Kafka handles look after themselves."""

    def after_fork_in_parent(self) -> None:
        """Do nothing: the connection is still open."""

    def after_fork_in_child(self) -> None:
        """Start over: the waiting threads exist in the parent only."""
        closed = self._closed
        self._begin()
        self._closed = closed

    # -- requests -------------------------------------------------------------------------------------------------

    def send(self, make: MakeCommand, what: str, news: queue.SimpleQueue[Any]) -> Ticket:
        """Send a command whose replies go into a queue, until ``done`` or ``give_up``.

        :raises KafkaError: when it was certainly not sent.
        """
        with self._lock:
            reply_id = f"{self._identity}-{next(self._numbers)}"
            ticket = self._pending[reply_id] = Ticket(reply_id, what, news, clock.monotonic())
            self.counters.requests += 1
        command = make(reply_topic=self.reply_topic, reply_id=reply_id)

        def delivered(delivery: Delivery) -> None:
            ticket.delivery = delivery
            if delivery.error is not None:
                news.put((ticket, delivery, b""))

        error = self.writer.send(
            self.environment.command_topic,
            encode_command(command),
            key=command_key(command),
            on_delivery=delivered,
        )
        if error is not None:
            self.done(ticket)
            raise error
        return ticket

    def done(self, ticket: Ticket) -> None:
        """Forget a request that has its answer."""
        with self._lock:
            self._pending.pop(ticket.reply_id, None)

    def give_up(self, ticket: Ticket, *, timed_out: bool = True) -> None:
        """Abandon a request; a reply that still comes is counted as late."""
        with self._lock:
            if self._pending.pop(ticket.reply_id, None) is None:
                return
            self.counters.timeouts += timed_out
            self._given_up[ticket.reply_id] = None
            if len(self._given_up) > _REMEMBERED:
                self._given_up.popitem(last=False)

    def exchange(
        self, commands: Mapping[K, tuple[MakeCommand, str]], deadline: Deadline
    ) -> dict[K, tuple[Message, bytes] | OperationTimeout | KafkaError]:
        """Send commands at the same time and wait for one reply to each.

        :param commands: for each key the function that makes the command, and the command in words.
        :returns: for each key the reply with its bytes, or why there is none; also when the deadline is cancelled.
            ``sent`` of an error tells whether the command may have left.
        """
        answers: dict[K, tuple[Message, bytes] | OperationTimeout | KafkaError] = {}
        news: queue.SimpleQueue[Any] = clock.simple_queue()
        waiting: dict[Ticket, K] = {}
        if commands:
            try:
                self.open(deadline)
            except (KafkaError, OperationTimeout, CallCancelled) as error:
                reason = error if not isinstance(error, CallCancelled) else self._cancelled(sent=False)
                return dict.fromkeys(commands, reason)
        remove = deadline.on_cancel(lambda: news.put(None))
        try:
            for key, (make, what) in commands.items():
                if deadline.expired:
                    answers[key] = OperationTimeout("no time left to send it", "broker", sent=False, what=what)
                    continue
                try:
                    waiting[self.send(make, what, news)] = key
                except KafkaError as error:
                    answers[key] = error
            while waiting and (left := deadline.remaining()) > 0.0:
                try:
                    got = news.get(timeout=_bounded(left))
                except queue.Empty:
                    continue
                self._take(got, waiting, answers)
        finally:
            remove()
            for ticket in waiting:
                self.give_up(ticket, timed_out=not deadline.cancelled)
        # The last answers may have arrived while the others were given up.
        while not news.empty():
            self._take(news.get(), waiting, answers)
        for ticket, key in waiting.items():
            answers[key] = self._cancelled(sent=True) if deadline.cancelled else self.silence(ticket, deadline.seconds)
        return {key: answers[key] for key in commands}

    def _take(self, got: Any, waiting: dict[Ticket, K], answers: dict[K, Any]) -> None:
        if got is None or got[0] not in waiting:
            return
        ticket, message, raw = got
        if isinstance(message, Delivery):
            # A command that may have reached the broker after all may still be answered.
            if not message.sent:
                answers[waiting.pop(ticket)] = self._undelivered(ticket)
                self.done(ticket)
            return
        answers[waiting.pop(ticket)] = (message, raw)
        self.done(ticket)

    @property
    def trouble(self) -> BrokerTrouble | None:
        """The broker that does not answer at present, if any."""
        return self.writer.trouble or self.reader.trouble

    @property
    def no_gateway(self) -> str:
        """The words for a gateway that does not answer."""
        return f"no gateway answers on topic {self.environment.command_topic} of broker {self.environment.broker}"

    # -- what is to blame -----------------------------------------------------------------------------------------

    def silence(self, ticket: Ticket, seconds: float) -> OperationTimeout:
        """Explain why a request was not answered, as far as can be told."""
        if (delivery := ticket.delivery) is not None and delivery.error is not None:
            return self._undelivered(ticket)
        waited = f"no answer within {seconds:g} s"
        if trouble := self.trouble:
            reason, culprit = f"{waited}; {trouble}", "broker"
        elif delivery is None:
            reason, culprit = f"{waited}; broker {self.environment.broker} has not taken the command", "broker"
        elif self._heard_at > ticket.sent_at:
            reason, culprit = f"{waited}; the gateway answers other requests: it is waiting for the PV", "pv"
        else:
            reason, culprit = f"{waited}: {self.no_gateway}, or it is still waiting for the PV", "gateway"
        return OperationTimeout(reason, culprit, what=ticket.what)

    def _undelivered(self, ticket: Ticket) -> OperationTimeout:
        delivery = ticket.delivery
        assert delivery is not None  # noqa: S101 - for the type checker; true of every caller
        return OperationTimeout(str(delivery.error), "broker", sent=delivery.sent, what=ticket.what)

    def _cancelled(self, *, sent: bool) -> OperationTimeout:
        return OperationTimeout("cancelled" if not sent else "cancelled after it was sent", "caller", sent=sent)

    # -- topics besides that of the replies -----------------------------------------------------------------------

    def listen(self, listeners: Mapping[str, Listener], deadline: Deadline) -> frozenset[str]:
        """Hand over what is written to topics from now on.

        :returns: the topics that do not exist; call ``listen_to_new`` once they have been created.
        :raises OperationTimeout: when no broker answers in time.
        """
        self.open(deadline)
        with self._lock:
            self._listeners.update(listeners)
        try:
            missing = self.topics.missing(listeners, deadline)
            self.reader.assign(listeners.keys() - missing, deadline)
        except TimeoutError as error:
            raise OperationTimeout(str(error), "broker", sent=False) from None
        return missing

    def listen_to_new(self, topics: Collection[str], deadline: Deadline) -> None:
        """Hand over everything that was written to topics that have just been created.

        :raises OperationTimeout: when one of them is not created in time.
        """
        left = frozenset(topics)
        while left:
            try:
                missing = self.topics.missing(left, deadline)
                self.reader.assign(left - missing, deadline, _FROM_THE_START)
            except TimeoutError as error:
                raise OperationTimeout(str(error), "broker") from None
            if missing and deadline.expired:
                raise OperationTimeout(f"the gateway has not created topic {min(missing)}", "gateway")
            if left := missing:
                clock.sleep(min(_NEW_TOPIC_PAUSE, deadline.remaining()))

    def leave(self, topics: Collection[str]) -> None:
        """Stop listening to topics."""
        with self._lock:
            for topic in topics:
                self._listeners.pop(topic, None)
        if topics and self._opened:
            self.reader.unassign(topics)

    # -- what comes in --------------------------------------------------------------------------------------------

    def _received(self, record: KafkaRecord) -> None:
        """Hand a record to the request or listener that it is for (the reader's thread)."""
        self.ahead = record.timestamp - clock.time()
        message = decode_record(record.value, record.headers)
        raw = record.value or b""
        if isinstance(message, BadRecord):
            self.counters.bad_records += 1
            if self.counters.bad_records <= _LOGGED:
                logger.warning(
                    "skipped a record on topic %s that is not a K2EG message: %s", record.topic, message.reason
                )
        elif isinstance(message, Reply | ValueReply | SnapshotDone):
            self._replied(message, raw)
        elif (listener := self._listeners.get(record.topic)) is not None:
            listener(message, raw)
        else:
            self.counters.foreign += 1

    def _replied(self, message: Reply | ValueReply | SnapshotDone, raw: bytes) -> None:
        with self._lock:
            ticket = self._pending.get(message.reply_id)
            if ticket is None:
                if message.reply_id in self._given_up:
                    self.counters.late += 1
                else:
                    self.counters.foreign += 1
                return
            self._heard_at = clock.monotonic()
        ticket.news.put((ticket, message, raw))


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), _LONGEST_WAIT)
