"""Commands of a client to a gateway. They are always JSON; their names and keys are the gateway's own.

Imports names and serialization.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .names import monitor_share, snapshot_topic
from .serialization import Serialization

logger = logging.getLogger(__name__)


class SnapshotType(StrEnum):
    """The contents of an iteration of a recurring snapshot."""

    #: The last known value of each PV.
    NORMAL = "normal"
    #: Every event since the last push.
    TIMED_BUFFERED = "timedbuffered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """The fields of every command.

    :ivar reply_topic: the topic of the reply.
    :ivar reply_id: repeated in the reply.
    :ivar serialization: the encoding of the reply and of the events or values that follow.
    """

    reply_topic: str
    reply_id: str
    serialization: Serialization = Serialization.MSGPACK


@dataclass(frozen=True, slots=True, kw_only=True)
class Get(Command):
    """Read a PV once."""

    pv_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Put(Command):
    """Write a PV.

    :ivar value: as ``encode_put_value`` makes it.
    """

    pv_name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor(Command):
    """Publish a PV's updates.

    :ivar monitor_dest_topic: the topic of the events; empty for the reply topic.
    """

    pv_name: str
    monitor_dest_topic: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiMonitor(Command):
    """Publish the updates of PVs, each to the topic named after it."""

    pv_name_list: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Command):
    """Read PVs once, all within a window."""

    pv_name_list: tuple[str, ...]
    time_window_msec: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatingSnapshot(Command):
    """Publish iterations of values until stopped.

    :ivar time_window_msec: the period of the iterations.
    :ivar repeat_delay_msec: the pause between two iterations; the real gateway makes none.
    :ivar sub_push_delay_msec: for a time-buffered snapshot, the period of pushes within a window; 0 for one push per
        window or second.
    :ivar triggered: publish an iteration for each trigger instead of periodically.
    :ivar type: a plain text if the word is not a known type.
    :ivar pv_field_filter_list: for a time-buffered snapshot, the only top-level fields to keep.
    """

    snapshot_name: str
    pv_name_list: tuple[str, ...]
    time_window_msec: int = 1000
    repeat_delay_msec: int = 0
    sub_push_delay_msec: int = 0
    triggered: bool = False
    type: SnapshotType | str = SnapshotType.NORMAL
    pv_field_filter_list: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTrigger(Command):
    """Make a triggered snapshot publish an iteration. Triggers in quick succession may share one.

    :ivar tags: ignored by the real gateway.
    """

    snapshot_name: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotStop(Command):
    """End a recurring snapshot, after one more iteration."""

    snapshot_name: str


@dataclass(frozen=True, slots=True)
class BadCommand:
    """A record that is not a command.

    :ivar reply_topic: the topic of the error reply; empty if it cannot be read.
    """

    reason: str
    reply_topic: str = ""
    reply_id: str = ""
    serialization: Serialization = Serialization.MSGPACK

    @property
    def answerable(self) -> bool:
        """Whether the sender can be sent a reply."""
        return bool(self.reply_topic and self.reply_id)


_WORDS: dict[type[Command], str] = {
    Get: "get",
    Put: "put",
    Monitor: "monitor",
    MultiMonitor: "multi-monitor",
    Snapshot: "snapshot",
    RepeatingSnapshot: "repeating_snapshot",
    SnapshotTrigger: "repeating_snapshot_trigger",
    SnapshotStop: "repeating_snapshot_stop",
}


def encode_command(command: Command) -> bytes:
    """Encode a command (client)."""
    body: dict[str, Any] = {"command": _WORDS[type(command)]}
    for name in command.__dataclass_fields__:
        value = getattr(command, name)
        # An empty destination is left out.
        if value is not None and (name, value) != ("monitor_dest_topic", ""):
            body[name] = list(value) if isinstance(value, tuple) else value
    return json.dumps(body).encode()


def command_key(command: Command) -> bytes | None:
    """Return the record key by which all commands for one PV or snapshot reach the same gateway of several, in order.

    A gateway ignores keys; Kafka's partitioner does not. A command to monitor many PVs has a key if they share one
    ``monitor_share``.
    """
    match command:
        case Get() | Put():
            return command.pv_name.partition("://")[2].encode()
        case Monitor():
            return monitor_share(command.pv_name).encode()
        case MultiMonitor():
            shares = {monitor_share(uri) for uri in command.pv_name_list}
            return shares.pop().encode() if len(shares) == 1 else None
        case RepeatingSnapshot() | SnapshotTrigger() | SnapshotStop():
            return snapshot_topic(command.snapshot_name).encode()
    return None


class _Rejected(ValueError):
    """A required field is missing or of the wrong type."""


def decode_command(value: bytes | None) -> Command | BadCommand:
    """Decode a command (gateway). Letter case matters; unknown keys are ignored."""
    try:
        body = json.loads(value or b"")
    except Exception as error:  # foreign bytes may make the decoder raise anything, RecursionError included
        return _unreadable(value or b"", f"not JSON: {error or type(error).__name__}")
    if not isinstance(body, dict):
        return BadCommand(f"JSON of a {type(body).__name__}, not of an object")
    fields = _Fields(body)
    try:
        return fields.read()
    except _Rejected as error:
        return BadCommand(str(error), _text(body, "reply_topic"), _text(body, "reply_id"), fields.serialization)


class _Fields:
    """The fields of one command. A strict field must have its type; a soft one of the wrong type takes its default."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body
        self.serialization = Serialization.MSGPACK
        word = self._soft("serialization", str, "msgpack").lower()
        if word in tuple(Serialization):
            self.serialization = Serialization(word)
        else:
            logger.warning("unknown serialization %r in a command; using msgpack", word)

    def read(self) -> Command:
        word = self._body.get("command")
        reader = _READERS.get(word) if isinstance(word, str) else None
        if reader is None:
            raise _Rejected(f"unknown command {word!r}")
        return reader(self)

    def _strict(self, name: str) -> str:
        value = self._body.get(name)
        if not isinstance(value, str):
            raise _Rejected(f"{name} is missing, or not a text")
        return value

    def _soft(self, name: str, kind: type[Any], default: Any) -> Any:
        value = self._body.get(name, default)
        # JSON's true is an int to Python alone.
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        logger.warning("%s in a command is not of type %s; using %r", name, kind.__name__, default)
        return default

    def _int32(self, name: str, default: int) -> int:
        value: int = self._soft(name, int, default)
        return value if -(2**31) <= value < 2**31 else default

    def _texts(self, name: str) -> tuple[str, ...]:
        """Return the distinct texts of a list; other items are left out."""
        return tuple(dict.fromkeys(item for item in self._soft(name, list, []) if isinstance(item, str)))

    def _pvs(self) -> tuple[str, ...]:
        if not (names := self._texts("pv_name_list")):
            raise _Rejected("pv_name_list is missing or empty")
        return names

    def _common(self, *, strict: tuple[str, ...] = ()) -> dict[str, Any]:
        return {
            name: self._strict(name) if name in strict else self._soft(name, str, "")
            for name in ("reply_topic", "reply_id")
        } | {"serialization": self.serialization}

    def get(self) -> Get:
        return Get(pv_name=self._strict("pv_name"), **self._common(strict=("reply_topic",)))

    def put(self) -> Put:
        return Put(pv_name=self._strict("pv_name"), value=self._strict("value"), **self._common())

    def monitor(self) -> Monitor:
        common = self._common()
        destination = self._soft("monitor_dest_topic", str, "")
        if not (destination or common["reply_topic"]):
            raise _Rejected("no destination: monitor_dest_topic and reply_topic are both missing")
        return Monitor(pv_name=self._strict("pv_name"), monitor_dest_topic=destination, **common)

    def multi_monitor(self) -> MultiMonitor:
        return MultiMonitor(pv_name_list=self._pvs(), **self._common())

    def snapshot(self) -> Snapshot:
        common = self._common(strict=("reply_topic", "reply_id"))
        return Snapshot(pv_name_list=self._pvs(), time_window_msec=self._int32("time_window_msec", 1000), **common)

    def repeating(self) -> RepeatingSnapshot:
        common = self._common(strict=("reply_topic", "reply_id"))
        word = self._soft("type", str, "normal").lower()
        return RepeatingSnapshot(
            snapshot_name=self._soft("snapshot_name", str, ""),
            pv_name_list=self._pvs(),
            time_window_msec=self._int32("time_window_msec", 1000),
            repeat_delay_msec=self._int32("repeat_delay_msec", 0),
            sub_push_delay_msec=self._int32("sub_push_delay_msec", 0),
            triggered=self._soft("triggered", bool, False),
            type=SnapshotType(word) if word in tuple(SnapshotType) else word,
            pv_field_filter_list=self._texts("pv_field_filter_list"),
            **common,
        )

    def trigger(self) -> SnapshotTrigger:
        tags = {key: tag for key, tag in self._soft("tags", dict, {}).items() if isinstance(tag, str)}
        common = self._common(strict=("reply_topic", "reply_id"))
        return SnapshotTrigger(snapshot_name=self._soft("snapshot_name", str, ""), tags=tags, **common)

    def stop(self) -> SnapshotStop:
        common = self._common(strict=("reply_topic", "reply_id"))
        return SnapshotStop(snapshot_name=self._soft("snapshot_name", str, ""), **common)


_READERS: dict[str, Callable[[_Fields], Command]] = {
    "get": _Fields.get,
    "put": _Fields.put,
    "monitor": _Fields.monitor,
    "multi-monitor": _Fields.multi_monitor,
    "snapshot": _Fields.snapshot,
    "repeating_snapshot": _Fields.repeating,
    "repeating_snapshot_trigger": _Fields.trigger,
    "repeating_snapshot_stop": _Fields.stop,
}


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""


def _unreadable(value: bytes, reason: str) -> BadCommand:
    """Find the reply address in JSON that was cut off: its sender is waiting for a reply."""
    found = [re.search(rf'"{name}"\s*:\s*"([^"\\]+)"'.encode(), value) for name in ("reply_topic", "reply_id")]
    topic, reply_id = (match[1].decode(errors="replace") if match else "" for match in found)
    return BadCommand(reason, topic, reply_id)
