"""``Gateway``: takes commands from a topic and answers them, reaching PVs through ``Control``."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..control import Control
from ..core.deadline import Deadline
from ..core.errors import ControlError
from ..k2eg.codec import (
    PARSE_FAILURE_KEY,
    BadCommand,
    Command,
    Get,
    Monitor,
    MultiMonitor,
    Put,
    RepeatingSnapshot,
    Reply,
    Snapshot,
    SnapshotStop,
    SnapshotTrigger,
    ValueReply,
    decode_command,
)
from ..kafka import GroupConsumer, KafkaConnection, KafkaRecord, Producer, Topics
from . import one_shot_snapshots as snapshots
from . import puts
from .command_pool import CommandPool
from .gets import Gets
from .monitors import Monitors
from .publisher import Publisher
from .recurring_snapshots import RecurringSnapshots
from .scheduler import Scheduler
from .snapshot_messages import Revision

logger = logging.getLogger(__name__)

#: The consumer group of all gateways that share a command topic.
GROUP = "badger-k2eg-gateway"
#: Partitions of a command topic that the gateway creates: so many gateways can share it.
COMMAND_PARTITIONS = 4

_HOUSEKEEPING = 1.0
#: Limits of the queue to the broker, so that memory stays bounded whatever the broker does.
_QUEUE = {"queue.buffering.max.messages": 20_000, "queue.buffering.max.kbytes": 64 * 1024}
#: Events are sent in batches; a reply is waited for, and sent at once.
_TOGETHER = {"linger.ms": 5}


class Gateway:
    """A server of PVs for K2EG clients, for development, demonstrations and tests.

    Several gateways with one command topic share its commands. Run it in a process of its own, which does not fork.

    :param connection: the connection to the broker.
    :param command_topic: the topic of the commands.
    :param control: reaches the PVs; its settings tell what may be written. Its owner closes its backend.
    :param revision: the revision of the protocol for recurring snapshots.
    :param monitor_expiry: seconds after which a monitor is dropped unless a client repeats its command; None for never.
    :param purge: whether the topic of a dropped monitor is deleted.
    :param group: the consumer group of the gateways that share the commands.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        command_topic: str,
        control: Control,
        *,
        revision: Revision = Revision.B,
        monitor_expiry: float | None = None,
        purge: bool = False,
        group: str = GROUP,
    ) -> None:
        """Open nothing yet."""
        self.command_topic = command_topic
        self._control = control
        self._topics = Topics(connection)
        own = dict(connection.options)
        self._replies = Producer(connection.with_options(_QUEUE | own), name="gateway replies")
        self._events = Producer(connection.with_options(_QUEUE | _TOGETHER | own), name="gateway events")
        self._reader = GroupConsumer(connection, group, [command_topic], self._take, name="gateway commands")
        self._scheduler = Scheduler()
        self._pool = CommandPool()
        self._publisher = publisher = Publisher(self._replies, self._events)
        self._gets = Gets(control.reader, self._pool, self._answer_get)
        self._monitors = Monitors(control.reader, publisher, self._topics, self._scheduler, monitor_expiry, purge=purge)
        self._recurring = RecurringSnapshots(control.reader, publisher, self._topics, self._scheduler, revision)
        self._in_trouble = False

    def start(self, deadline: Deadline) -> None:
        """Start to serve. Every command sent after it returns is taken, by this gateway or another of its group.

        :raises KafkaError: naming the broker or the topic.
        """
        self._topics.create(self.command_topic, deadline, partitions=COMMAND_PARTITIONS)
        self._replies.connect()
        self._events.connect()
        self._scheduler.start()
        self._gets.start()
        self._scheduler.call_later(_HOUSEKEEPING, self._keep_house)
        self._reader.start(deadline)

    def close(self) -> None:
        """Stop taking commands, end monitors and snapshots, and send what is queued. Bounded; idempotent."""
        self._reader.close()
        self._publisher.close()
        self._gets.close()
        self._pool.close()
        self._scheduler.close()
        self._recurring.close()
        self._monitors.close()
        self._control.close()
        self._events.close()
        self._replies.close()
        self._topics.close()

    # -- commands -----------------------------------------------------------------------------------------------

    @property
    def monitored(self) -> int:
        """How many PVs are monitored for clients."""
        return len(self._monitors)

    @property
    def snapshots(self) -> int:
        """How many recurring snapshots are taken."""
        return len(self._recurring)

    def _take(self, record: KafkaRecord) -> None:
        """Pass a record to a worker (the reader's thread)."""
        command = decode_command(record.value)
        if isinstance(command, BadCommand):
            logger.warning("a record on topic %s is not a command: %s", self.command_topic, command.reason)
            self._refuse(command)
            return
        if isinstance(command, Get):
            self._gets.add(command)
            return
        # Puts to one PV are executed in the order of their arrival.
        lane = command.pv_name.partition("://")[2] if isinstance(command, Put) else None
        self._pool.submit(lambda: self._run(command, lambda: self._do(command)), lane)

    def _run(self, command: Command, job: Callable[[], None]) -> None:
        """Run the job of a command; tell its sender if it fails."""
        try:
            job()
        except ControlError as error:
            self._publisher.acknowledge(command, -1, str(error))
        except Exception:  # of any kind: one command must not end the gateway
            logger.exception("a command failed unexpectedly: %s", type(command).__name__)
            self._unanswerable(command)

    def _do(self, command: Command) -> None:
        match command:
            case Put():
                reply = puts.put(self._control, command)
                if reply.message is None:
                    self._unanswerable(command)
                else:
                    self._publisher.acknowledge(command, reply.error, reply.message)
            case Monitor():
                self._monitors.monitor(command)
            case MultiMonitor():
                self._monitors.monitor_many(command)
            case Snapshot():
                snapshots.take(self._control.reader, self._publisher, self._scheduler, command)
            case RepeatingSnapshot():
                self._recurring.start(command)
            case SnapshotTrigger():
                self._recurring.trigger(command)
            case SnapshotStop():
                self._recurring.stop(command)

    def _answer_get(self, command: Get, answer: ValueReply | Reply) -> None:
        def send() -> None:
            if (error := self._publisher.reply(command, answer)) is not None:
                # The value is too large for a message; the error is not.
                self._publisher.reply(command, Reply(command.reply_id, -2, str(error)))

        self._run(command, send)

    def _unanswerable(self, command: Command) -> None:
        """Answer a command as if it could not be read: K2EG has no reply for this case."""
        self._refuse(BadCommand("", command.reply_topic, command.reply_id, command.serialization))

    def _refuse(self, command: BadCommand) -> None:
        """Reply to an unreadable command, if it contains a reply address."""
        if command.answerable:
            reply = Reply(command.reply_id, -1)
            self._publisher.publish(command.reply_topic, PARSE_FAILURE_KEY, reply, command.serialization)

    # -- housekeeping -------------------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        """Close unused subscriptions, and repeat events after a broker outage (scheduler)."""
        self._control.reader.subscriptions.prune()
        in_trouble = self._events.trouble is not None
        if self._in_trouble and not in_trouble:
            self._monitors.repeat()
        self._in_trouble = in_trouble
        self._scheduler.call_later(_HOUSEKEEPING, self._keep_house)
