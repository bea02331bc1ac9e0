"""PV URIs that K2EG supports, and the topics that follow from names. Imports errors only."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from ...core.errors import PvNameError

# The gateway's own expression. It accepts ``pv`` by accident, and serves it over Channel Access.
_URI = re.compile(
    r"(?P<scheme>pva?|ca)://(?P<name>[A-Za-z0-9_-]+(?::[A-Za-z0-9_-]+)*)(?:\.(?P<field>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_]+)*))?"
)
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Kafka's own limit on the name of a topic.
LONGEST_TOPIC = 249
_SHARES = 8


@dataclass(frozen=True, slots=True)
class PvUri:
    """A URI that a gateway accepts.

    :ivar text: the URI as written; the key of the replies.
    :ivar scheme: ``pva`` or ``ca``.
    :ivar name: the PV's name without a field; the key of values.
    :ivar field: the part after the dot. K2EG drops it: a put to ``X.HIHI`` writes to ``X``.
    """

    text: str
    scheme: str
    name: str
    field: str | None = None


def parse_uri(text: object) -> PvUri | None:
    """Parse a URI by the gateway's rule; return None for one that a gateway calls malformed."""
    if not isinstance(text, str) or (match := _URI.fullmatch(text)) is None:
        return None
    return PvUri(text, "pva" if match["scheme"] == "pva" else "ca", match["name"], match["field"])


def check_uri(text: object) -> PvUri:
    """Parse a URI that a client may send: one that a gateway serves as the client means it.

    A gateway reports success for a monitor of a malformed URI, and drops a field silently.

    :raises PvNameError: for a malformed URI, one with a field, ``pv://``, and one too long for a topic name.
    """
    uri = parse_uri(text)
    if uri is None:
        raise PvNameError(
            str(text),
            "not a PV name that K2EG accepts: pva://NAME or ca://NAME, of letters, digits, _ and - with single colons",
        )
    if uri.text.startswith("pv://"):
        raise PvNameError(uri.text, "unknown scheme 'pv'; use pva:// or ca://")
    if uri.field is not None:
        raise PvNameError(uri.text, f"K2EG does not support fields: it would drop .{uri.field} and use {uri.name}")
    if len(uri.name) > LONGEST_TOPIC:
        raise PvNameError(uri.text, f"longer than {LONGEST_TOPIC} characters: Kafka allows no topic of this name")
    return uri


def check_field_names(names: Iterable[str]) -> tuple[str, ...]:
    """Check the names of the top-level fields that a recurring snapshot is to keep.

    :raises ValueError: for anything but plain names: a dotted one crashes the real gateway.
    """
    fields = tuple(names)
    for name in fields:
        if not _FIELD_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a top-level field of a PV (like value, alarm, timeStamp)")
    return fields


def monitor_topic(name: str) -> str:
    """Return the topic of a PV's monitor events. Different PVs can share one (``A:B`` and ``A_B``)."""
    return name.replace(":", "_")


def monitor_share(uri: str) -> str:
    """Return the share of a PV's monitor: PVs are divided by name into a few shares, each with its record key."""
    return f"monitors-{zlib.crc32(uri.partition('://')[2].encode()) % _SHARES}"


def snapshot_topic(name: str) -> str:
    """Return the topic of a recurring snapshot. It is the identity too: names with one topic are one snapshot."""
    return re.sub(r"[^A-Za-z0-9-]", "_", name).lower()
