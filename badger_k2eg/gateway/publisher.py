"""``Publisher``: encodes the gateway's messages and sends them through a bounded queue."""

from __future__ import annotations

import logging

from ..core import clock
from ..core.errors import KafkaError, WriterFull
from ..k2eg.codec import Command, Message, Reply, Serialization, encode_record, reply_key
from ..kafka import Producer

logger = logging.getLogger(__name__)

# Seconds between two looks for room in a full queue.
_ROOM = 0.005


class Publisher:
    """Sends messages, and blocks while the queue is full.

    The blocked caller holds back the PVs' updates, which are merged in the PVs' own queues, where the last one is never
    lost. So memory stays bounded while a broker is slow.
    """

    def __init__(self, replies: Producer, events: Producer) -> None:
        """Use the producers, which their owner closes.

        :param replies: for replies, which a client waits for.
        :param events: for all other messages, of which there may be thousands a second.
        """
        self._replies = replies
        self._events = events
        self._closed = clock.event()

    def publish(self, topic: str, key: str, message: Message, serialization: Serialization) -> KafkaError | None:
        """Send an event.

        :returns: None, or why it was not sent: it is too large, or the gateway is closing.
        """
        return self._send(self._events, topic, key, message, serialization)

    def _send(
        self, writer: Producer, topic: str, key: str, message: Message, serialization: Serialization
    ) -> KafkaError | None:
        record = encode_record(message, key, serialization)
        while True:
            error = writer.send(topic, record.value, key=record.key, headers=record.headers)
            if not isinstance(error, WriterFull):
                break
            if self._closed.wait(_ROOM):
                return error
        if error is not None:
            logger.warning("%s to topic %s was not sent: %s", type(message).__name__, topic, error)
        return error

    def reply(self, command: Command, message: Message) -> KafkaError | None:
        """Answer a command that has a reply topic."""
        if not command.reply_topic:
            return None
        return self._send(self._replies, command.reply_topic, reply_key(command), message, command.serialization)

    def acknowledge(self, command: Command, error: int, message: str | None, topic: str | None = None) -> None:
        """Answer a command that has both a reply topic and a reply id."""
        if command.reply_topic and command.reply_id:
            self.reply(command, Reply(command.reply_id, error, message, topic))

    def close(self) -> None:
        """Stop waiting for room."""
        self._closed.set()
