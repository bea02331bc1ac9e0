"""The values that this package takes and returns: records, deliveries, the trouble with a broker. All frozen."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..core.errors import KafkaError


class Start(enum.Enum):
    """Where the reading of a topic begins."""

    END = "end"
    """Only what is written after the call that assigns it."""
    BEGINNING = "beginning"
    """All that the broker still has."""


@dataclass(frozen=True, slots=True)
class KafkaRecord:
    """One record as it was read.

    :param timestamp: Unix time in seconds according to the broker; NaN if it has none.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: float

    def header(self, name: str) -> bytes | None:
        """Return the last header of a name; None if there is none."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


@dataclass(frozen=True, slots=True)
class Delivery:
    """Report on one written record.

    :param partition: where the broker has stored it; -1 if it is not known to have it.
    :param offset: where in the partition; -1 likewise.
    :param error: None if the broker has the record. Otherwise it may still have it, as an answer can be lost; see
        ``sent``.
    :param sent: whether the record may be on the broker; False: certainly not.
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
    :param authentication: whether it answers, but refuses the credentials or certificates.
    """

    broker: str
    reason: str
    since: float
    authentication: bool = False

    def __str__(self) -> str:
        if self.authentication:
            return f"broker {self.broker} refuses access: {self.reason}"
        return f"broker {self.broker} does not answer: {self.reason}"
