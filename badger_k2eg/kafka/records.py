"""The values that go in and out of the Kafka room: records, deliveries, the trouble with a broker.

Frozen and without behaviour; imports errors only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..core.errors import KafkaError


class Start(enum.Enum):
    """From where a topic is read."""

    END = "end"
    """Only what is written after the call that assigns it."""
    BEGINNING = "beginning"
    """All that the broker still has."""


@dataclass(frozen=True, slots=True)
class KafkaRecord:
    """One record as it was read.

    :param timestamp: Unix time in seconds as the broker has it; NaN if it has none.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: float

    def header(self, name: str) -> bytes | None:
        """Give the last header of that name; None if there is none."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one written record.

    :param partition: where the broker has put it; -1 if it is not known to have it.
    :param offset: where in the partition; -1 likewise.
    :param error: None: the broker has it. Otherwise it may still have it, as an answer can be lost; ``sent`` says.
    :param sent: whether it may be on the broker. False: certainly not.
    """

    topic: str
    partition: int = -1
    offset: int = -1
    error: KafkaError | None = None
    sent: bool = True


@dataclass(frozen=True, slots=True)
class BrokerTrouble:
    """A broker that does not answer at the moment.

    :param broker: ``HOST:PORT``.
    :param reason: the library's words, e.g. ``Connection refused``.
    :param since: Unix time in seconds.
    :param authentication: it answers, but refuses our credentials or certificates.
    """

    broker: str
    reason: str
    since: float
    authentication: bool = False

    def __str__(self) -> str:
        if self.authentication:
            return f"broker {self.broker} does not let us in: {self.reason}"
        return f"broker {self.broker} does not answer: {self.reason}"
