"""Messages of a gateway: replies, monitor events, values and iterations of snapshots.

Imports serialization and commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .commands import Command, Get, Monitor, MultiMonitor, Put, Snapshot
from .serialization import HEADER, Serialization, Undecodable, dumps, loads, serialization_of

#: The record key of the reply to a record that is not a command, in the gateway's own spelling.
PARSE_FAILURE_KEY = "comand-parse-error-reply"

_HEADER_TYPE, _DATA_TYPE, _TAIL_TYPE = 0, 1, 2
_SNAPSHOT_DONE = 1
_CANCELLED = "cancelled"


class EncodedRecord(NamedTuple):
    """A Kafka record, ready to be produced."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a command, unless it is the value of a PV.

    :ivar error: 0 for success, otherwise negative; the meaning of a code depends on the command.
    :ivar message: the gateway's words; None when it could not read the command.
    :ivar publishing_topic: the topic of a recurring snapshot that was started; None when it was running already.
    """

    reply_id: str
    error: int = 0
    message: str | None = None
    publishing_topic: str | None = None

    @property
    def is_cancellation(self) -> bool:
        """Whether the gateway lost the PV while the command was under way.

        The code is that of a refusal (-2); on this wire the words alone tell the two apart.
        """
        return self.error < 0 and _CANCELLED in (self.message or "").lower()


@dataclass(frozen=True, slots=True)
class ValueReply:
    """The value of a PV: the answer to a get, or one of the answers to a one-shot snapshot.

    :ivar pv: the PV's name without scheme and field.
    :ivar tree: its whole structure. It carries no types: a float may arrive as an int.
    """

    reply_id: str
    pv: str
    tree: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SnapshotDone:
    """The end of a one-shot snapshot: no more replies have this id."""

    reply_id: str


@dataclass(frozen=True, slots=True)
class MonitorEvent:
    """An update of a monitored PV."""

    pv: str
    tree: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotHeader:
    """The beginning of an iteration of a recurring snapshot.

    :ivar iter_index: 1 for the first iteration since the start of the snapshot.
    :ivar timestamp: when it was sent, milliseconds since the Unix epoch.
    :ivar msg_seq: revision B: the number of this message in its iteration, 1. None in revision A.
    :ivar submission_seq: revision B with sub-push: the number of the batch.
    """

    snapshot_name: str
    iter_index: int
    timestamp: int
    msg_seq: int | None = None
    submission_seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotData:
    """A value of a PV in an iteration.

    :ivar msg_seq: revision B: 2 and up, unique in the iteration.
    :ivar last_submission_data: revision B with sub-push: whether it is the last of its batch.
    """

    pv: str
    tree: Mapping[str, Any]
    iter_index: int
    timestamp: int
    msg_seq: int | None = None
    submission_seq: int | None = None
    last_submission_data: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTail:
    """The end of an iteration.

    :ivar msg_seq: revision B: the last number of the iteration, and like ``total_messages`` the count of its messages.
    """

    snapshot_name: str
    iter_index: int
    timestamp: int
    error: int = 0
    error_message: str = ""
    msg_seq: int | None = None
    total_messages: int | None = None
    submission_seq: int | None = None


Message = Reply | ValueReply | SnapshotDone | MonitorEvent | SnapshotHeader | SnapshotData | SnapshotTail


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is not a K2EG message."""

    reason: str


def reply_key(command: Command) -> str:
    """Return the record key of the replies to a command."""
    match command:
        case Get() | Put():
            return command.pv_name
        case Monitor() | MultiMonitor():
            return "monitor-error-key"
        case Snapshot():
            return "snapshot-dist-key"
    return "repeating-snapshot-events"


def encode_record(message: Message, key: str, serialization: Serialization = Serialization.MSGPACK) -> EncodedRecord:
    """Encode a message (gateway).

    :param key: ``reply_key`` of the command, the PV's name of an event, or the snapshot's name of an iteration.
    :raises TypeError: for a tree that holds an unsupported type.
    """
    value = dumps(_body(message, serialization), serialization)
    return EncodedRecord(key.encode(errors="replace"), value, ((HEADER, serialization.header),))


def decode_record(
    value: bytes | None, headers: Iterable[tuple[str, bytes | str | None]] | None = None
) -> Message | BadRecord:
    """Decode a record from any topic of a gateway (client). Its key adds nothing to its body."""
    try:
        body = loads(value or b"", serialization_of(headers))
        return _message(body)
    except Undecodable as error:
        return BadRecord(str(error))


def _body(message: Message, serialization: Serialization) -> dict[str, Any]:
    """Return the body of a message, its keys in the order of the gateway's msgpack."""
    match message:
        case Reply():
            optional = {"message": message.message, "publishing_topic": message.publishing_topic}
            return {"error": message.error, "reply_id": message.reply_id} | _given(optional)
        case ValueReply():
            return {"error": 0, "reply_id": message.reply_id, message.pv: message.tree}
        case SnapshotDone():
            return {"error": _SNAPSHOT_DONE, "reply_id": message.reply_id}
        case MonitorEvent():
            return {message.pv: message.tree}
        case SnapshotHeader():
            return {
                "message_type": _HEADER_TYPE,
                "snapshot_name": message.snapshot_name,
                "timestamp": message.timestamp,
                "iter_index": message.iter_index,
            } | _given({"msg_seq": message.msg_seq, "submission_seq": message.submission_seq})
        case SnapshotData():
            return {
                "message_type": _DATA_TYPE,
                "timestamp": message.timestamp,
                "iter_index": message.iter_index,
                **_given(
                    {
                        "msg_seq": message.msg_seq,
                        "submission_seq": message.submission_seq,
                        "last_submission_data": message.last_submission_data or None,
                    }
                ),
                message.pv: message.tree,
            }
        case SnapshotTail():
            # An empty text is left out of msgpack, but not of JSON.
            text = message.error_message or (None if serialization is Serialization.MSGPACK else "")
            return {
                "message_type": _TAIL_TYPE,
                "error": message.error,
                **_given({"error_message": text}),
                "iter_index": message.iter_index,
                "timestamp": message.timestamp,
                "snapshot_name": message.snapshot_name,
                **_given(
                    {
                        "msg_seq": message.msg_seq,
                        "total_messages": message.total_messages,
                        "submission_seq": message.submission_seq,
                    }
                ),
            }


def _given(optional: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in optional.items() if value is not None}


def _message(body: dict[str, Any]) -> Message:
    trees = [key for key, value in body.items() if isinstance(value, dict)]
    if len(body) == 1 and trees:
        return MonitorEvent(trees[0], body[trees[0]])
    if "message_type" in body:
        return _of_iteration(body, trees)
    if "reply_id" not in body:
        raise Undecodable(f"neither a reply nor an event: keys {', '.join(sorted(body))[:100] or '(none)'}")
    reply_id, error = _text(body, "reply_id"), _integer(body, "error")
    if error == _SNAPSHOT_DONE:
        return SnapshotDone(reply_id)
    if error == 0 and len(trees) == 1:
        return ValueReply(reply_id, trees[0], body[trees[0]])
    return Reply(reply_id, error, _optional(body, "message", str), _optional(body, "publishing_topic", str))


def _of_iteration(body: dict[str, Any], trees: list[str]) -> SnapshotHeader | SnapshotData | SnapshotTail:
    kind = _integer(body, "message_type")
    number, timestamp = _integer(body, "iter_index"), _integer(body, "timestamp")
    msg_seq, submission_seq = _optional(body, "msg_seq", int), _optional(body, "submission_seq", int)
    if kind == _HEADER_TYPE:
        return SnapshotHeader(
            snapshot_name=_text(body, "snapshot_name"),
            iter_index=number,
            timestamp=timestamp,
            msg_seq=msg_seq,
            submission_seq=submission_seq,
        )
    if kind == _TAIL_TYPE:
        return SnapshotTail(
            snapshot_name=_text(body, "snapshot_name"),
            iter_index=number,
            timestamp=timestamp,
            error=_optional(body, "error", int) or 0,
            error_message=_optional(body, "error_message", str) or "",
            msg_seq=msg_seq,
            total_messages=_optional(body, "total_messages", int),
            submission_seq=submission_seq,
        )
    if kind != _DATA_TYPE or len(trees) != 1:
        raise Undecodable(f"message_type {kind} with {len(trees)} PVs")
    return SnapshotData(
        pv=trees[0],
        tree=body[trees[0]],
        iter_index=number,
        timestamp=timestamp,
        msg_seq=msg_seq,
        submission_seq=submission_seq,
        last_submission_data=bool(_optional(body, "last_submission_data", int)),
    )


def _integer(body: Mapping[str, Any], key: str) -> int:
    value = body.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Undecodable(f"{key} is {'missing' if value is None else 'not an integer'}")
    return value


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise Undecodable(f"{key} is {'missing' if value is None else 'not a text'}")
    return value


def _optional(body: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    value = body.get(key)
    return value if isinstance(value, kind) else None
