"""The Kafka side of a client: requests that wait for their replies, and topics that somebody listens to.

Owns one reader, one writer, the table of requests under way and the counters. Knows commands and messages as such, not
what they are for. Imports kafka, the codec and what lies below.

Which thread does what::

    the caller's        sends, and waits on the queue of its own exchange until one absolute deadline
    "k2eg replies"      the reader's: decodes, finds who waits or listens, appends to a queue
    "k2eg commands"     the writer's: delivery reports, into the same queues
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
from .tickets import Counters, Ticket

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

#: Makes a command from what every command needs: ``reply_topic=`` and ``reply_id=``.
MakeCommand = Callable[..., Command]
#: Called in the reader's thread with what came on a topic, and its bytes; must only hand over.
Listener = Callable[[Message, bytes], None]

# Ids of requests that were given up: a reply to one of them is late, not foreign.
_REMEMBERED = 10_000
# Bad records are logged one by one up to this many, and counted beyond.
_LOGGED = 20
_LONGEST_WAIT = 3600.0
_NEW_TOPIC_PAUSE = 0.05
# By partition. Of a new topic that need not be asked for, which a broker answers late while it makes many.
_FROM_THE_START = dict.fromkeys(range(256), 0)


class Link:
    """One application's connection to the gateways of an environment, open from the first use on.

    Safe to use from many threads. A parent's goes on through a fork; a child's begins anew.

    :param unique_reply_topic: have a topic of this process's own, which is deleted on close.
    """

    def __init__(self, environment: K2egEnvironment, app_name: str, *, unique_reply_topic: bool = False) -> None:
        """Open nothing yet.

        :raises SettingsError: when there can be no reply topic of this name.
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
        # Held while opening: threads that come meanwhile wait for it, each until its own deadline.
        self._opening = threading.Lock()
        self._opened = False
        self._closed = False
        # Of this process alone: a forked child that used its parent's ids would take its parent's replies.
        self._identity = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._pending: dict[str, Ticket] = {}
        self._given_up: OrderedDict[str, None] = OrderedDict()
        self._listeners: dict[str, Listener] = {}
        self._heard_at = 0.0
        #: Seconds that the time of the last record was ahead of this host when it came; NaN before the first.
        self.ahead = math.nan
        self.reply_topic = f"{self._shared_topic}-{self._identity}" if self._unique else self._shared_topic

    # -- life -----------------------------------------------------------------------------------------------------

    def open(self, deadline: Deadline) -> None:
        """Connect, and read the reply topic from now on. Does nothing when it is open.

        :raises OperationTimeout: when no broker answers in time.
        :raises KafkaError: when the broker refuses us, or there is no reply topic and none can be made.
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
            raise TopicRefused(f"there is no reply topic {self.reply_topic}, and {error}", error.broker) from None
        self.reader.assign([self.reply_topic], deadline)

    def close(self) -> None:
        """End the threads; what waits for a reply runs into its deadline, or is cancelled by its owner. Idempotent."""
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
                logger.info("the reply topic %s is left: %s", self.reply_topic, error)
        self.writer.close()
        self.topics.close()

    def before_fork(self) -> None:
        """Let the parent go on: the Kafka room sees to its handles itself."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Begin anew: the threads that waited here exist in the parent alone."""
        closed = self._closed
        self._begin()
        self._closed = closed

    # -- requests -------------------------------------------------------------------------------------------------

    def send(self, make: MakeCommand, what: str, news: queue.SimpleQueue[Any]) -> Ticket:
        """Send a command whose replies go into a queue, until ``done`` or ``give_up``.

        :raises KafkaError: when it certainly is not sent.
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
        """Take no more replies to a request that has its answer."""
        with self._lock:
            self._pending.pop(ticket.reply_id, None)

    def give_up(self, ticket: Ticket, *, timed_out: bool = True) -> None:
        """Take no more replies to a request; one that comes all the same is late."""
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
        """Send commands all at once, and wait for one reply to each.

        :param commands: what makes each command, and what it is in words.
        :returns: for each its reply and the bytes of that, or why there is none. On a cancelled deadline too: what may
            be on its way has ``sent``.
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
                    answers[key] = OperationTimeout(f"{what}: no time left to send it", "broker", sent=False)
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
        # The last answers may have come in while the rest was given up.
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
            # What may have arrived after all is waited for.
            if not message.sent:
                answers[waiting.pop(ticket)] = self._undelivered(ticket)
                self.done(ticket)
            return
        answers[waiting.pop(ticket)] = (message, raw)
        self.done(ticket)

    @property
    def trouble(self) -> BrokerTrouble | None:
        """The broker that does not answer at the moment; None as far as is known."""
        return self.writer.trouble or self.reader.trouble

    @property
    def nobody(self) -> str:
        """Say that there is no gateway, and where."""
        return f"no gateway answers on topic {self.environment.command_topic} of broker {self.environment.broker}"

    # -- who is to blame ------------------------------------------------------------------------------------------

    def silence(self, ticket: Ticket, seconds: float) -> OperationTimeout:
        """Say why a request has got no answer, as far as can be told."""
        if (delivery := ticket.delivery) is not None and delivery.error is not None:
            return self._undelivered(ticket)
        waited = f"{ticket.what}: no answer within {seconds:g} s"
        if trouble := self.trouble:
            return OperationTimeout(f"{waited}; {trouble}", "broker")
        if delivery is None:
            return OperationTimeout(f"{waited}; broker {self.environment.broker} has not taken the command", "broker")
        if self._heard_at > ticket.sent_at:
            return OperationTimeout(f"{waited}; the gateway answers others: it waits for the PV", "pv")
        return OperationTimeout(f"{waited}: {self.nobody}, or it still waits for the PV", "gateway")

    def _undelivered(self, ticket: Ticket) -> OperationTimeout:
        delivery = ticket.delivery
        assert delivery is not None  # noqa: S101 - for the type checker; that is when this is called
        return OperationTimeout(f"{ticket.what}: {delivery.error}", "broker", sent=delivery.sent)

    def _cancelled(self, *, sent: bool) -> OperationTimeout:
        return OperationTimeout("cancelled" if not sent else "cancelled after it was sent", "caller", sent=sent)

    # -- topics besides that of the replies -----------------------------------------------------------------------

    def listen(self, listeners: Mapping[str, Listener], deadline: Deadline) -> frozenset[str]:
        """Hand over what is written to topics from now on.

        :returns: those that do not exist: whoever makes them come into being calls ``listen_to_new`` afterwards.
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
        """Hand over all that was ever written to topics that have just come into being.

        :raises OperationTimeout: when one does not come into being in time.
        """
        left = frozenset(topics)
        while left:
            try:
                missing = self.topics.missing(left, deadline)
                self.reader.assign(left - missing, deadline, _FROM_THE_START)
            except TimeoutError as error:
                raise OperationTimeout(str(error), "broker") from None
            if missing and deadline.expired:
                raise OperationTimeout(f"the gateway has not made topic {min(missing)}", "gateway")
            if left := missing:
                clock.sleep(min(_NEW_TOPIC_PAUSE, deadline.remaining()))

    def leave(self, topics: Collection[str]) -> None:
        """Listen to topics no more."""
        with self._lock:
            for topic in topics:
                self._listeners.pop(topic, None)
        if topics and self._opened:
            self.reader.unassign(topics)

    # -- what comes in --------------------------------------------------------------------------------------------

    def _received(self, record: KafkaRecord) -> None:
        """Find who waits for a record (the reader's thread)."""
        self.ahead = record.timestamp - clock.time()
        message = decode_record(record.value, record.headers)
        raw = record.value or b""
        if isinstance(message, BadRecord):
            self.counters.bad_records += 1
            if self.counters.bad_records <= _LOGGED:
                logger.warning(
                    "a record on topic %s is no message of K2EG, and is skipped: %s", record.topic, message.reason
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
