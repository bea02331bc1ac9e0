"""A request on its way, and what a client counts. Imports kafka."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Any

from ..kafka import Delivery


@dataclass(slots=True)
class Counters:
    """What a client has seen since it was made.

    :ivar requests: commands sent.
    :ivar timeouts: of them, those whose time ran out.
    :ivar late: replies that came after that; dropped.
    :ivar foreign: replies to somebody else on the same topic; dropped.
    :ivar bad_records: records that are none of K2EG's messages; dropped.
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
    """One request under way.

    :ivar what: in words, for messages.
    :ivar news: where replies, and a failed delivery, are put: ``(ticket, news, bytes of the record)``.
    """

    reply_id: str
    what: str
    news: queue.SimpleQueue[Any]
    sent_at: float
    delivery: Delivery | None = None
