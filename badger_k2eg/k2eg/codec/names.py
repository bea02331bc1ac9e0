"""PV URIs as K2EG can carry them, and the topics that follow from names. Imports errors alone."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from ...core.errors import PvNameError

# The gateway's own expression. ``pv`` passes by accident, and is served over Channel Access.
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

    :ivar text: as it was written; the key of the replies.
    :ivar scheme: ``pva`` or ``ca``.
    :ivar name: the PV's name without a field; the key of values.
    :ivar field: what follows the name's dot. K2EG drops it: a put to ``X.HIHI`` writes to ``X``.
    """

    text: str
    scheme: str
    name: str
    field: str | None = None


def parse_uri(text: object) -> PvUri | None:
    """Read a URI by the gateway's rule; None for what a gateway calls malformed."""
    if not isinstance(text, str) or (match := _URI.fullmatch(text)) is None:
        return None
    return PvUri(text, "pva" if match["scheme"] == "pva" else "ca", match["name"], match["field"])


def check_uri(text: object) -> PvUri:
    """Read a URI that a client may send: one that a gateway serves as it is meant.

    A gateway takes a monitor of a malformed URI for a success, and drops a field without a word.

    :raises PvNameError: for a malformed one, one with a field, ``pv://``, and one without a topic name.
    """
    uri = parse_uri(text)
    if uri is None:
        raise PvNameError(
            str(text), "not a PV of K2EG: pva://NAME or ca://NAME, of letters, digits, _ and - with single colons"
        )
    if uri.text.startswith("pv://"):
        raise PvNameError(uri.text, "unknown scheme 'pv'; use pva:// or ca://")
    if uri.field is not None:
        raise PvNameError(uri.text, f"K2EG knows no fields: it would drop .{uri.field} and use {uri.name}")
    if len(uri.name) > LONGEST_TOPIC:
        raise PvNameError(uri.text, f"longer than {LONGEST_TOPIC} characters: Kafka has no topic for it")
    return uri


def check_field_names(names: Iterable[str]) -> tuple[str, ...]:
    """Check the top-level fields that a recurring snapshot shall keep.

    :raises ValueError: for anything but plain names: a dotted one ends the real gateway's process.
    """
    fields = tuple(names)
    for name in fields:
        if not _FIELD_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a top-level field of a PV (like value, alarm, timeStamp)")
    return fields


def monitor_topic(name: str) -> str:
    """Give the topic of a PV's monitor events. Different PVs can share one (``A:B`` and ``A_B``)."""
    return name.replace(":", "_")


def monitor_share(uri: str) -> str:
    """Give the share to which a PV's monitor belongs: PVs are divided by their names into a few, each with its key."""
    return f"monitors-{zlib.crc32(uri.partition('://')[2].encode()) % _SHARES}"


def snapshot_topic(name: str) -> str:
    """Give the topic of a recurring snapshot, which is its identity too: names that give the same are the same."""
    return re.sub(r"[^A-Za-z0-9-]", "_", name).lower()
