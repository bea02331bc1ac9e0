"""What the gateway sends: messages written by the codec, into a queue that is bounded."""

from __future__ import annotations

import logging

from ..core import clock
from ..core.errors import KafkaError, WriterFull
from ..k2eg.codec import Command, Message, Reply, Serialization, encode_record, reply_key
from ..kafka import Producer

logger = logging.getLogger(__name__)

# How long to wait for room in a full queue before looking again.
_ROOM = 0.005


class Publisher:
    """Sends messages. Where the queue is full it waits for room.

    That holds the caller back, who in turn holds the PVs' updates back: these are merged where they wait, at the PV,
    and the last one is never lost. So nothing grows while a broker is slow.
    """

    def __init__(self, replies: Producer, events: Producer) -> None:
        """Take the writers; their owner closes them.

        :param replies: for what somebody waits for.
        :param events: for all the rest, of which there may be thousands a second.
        """
        self._replies = replies
        self._events = events
        self._closed = clock.event()

    def publish(self, topic: str, key: str, message: Message, serialization: Serialization) -> KafkaError | None:
        """Send one event.

        :returns: None, or why it certainly will not come: it is too large, or the gateway ends.
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
            logger.warning("%s to topic %s is not sent: %s", type(message).__name__, topic, error)
        return error

    def reply(self, command: Command, message: Message) -> KafkaError | None:
        """Answer a command, where it says to whom."""
        if not command.reply_topic:
            return None
        return self._send(self._replies, command.reply_topic, reply_key(command), message, command.serialization)

    def acknowledge(self, command: Command, error: int, message: str | None, topic: str | None = None) -> None:
        """Answer a command that is answered only if it has both a topic and an id for it."""
        if command.reply_topic and command.reply_id:
            self.reply(command, Reply(command.reply_id, error, message, topic))

    def close(self) -> None:
        """Wait for room no more."""
        self._closed.set()
