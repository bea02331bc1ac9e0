"""Msgpack and JSON, the header that tells them apart, and the value of a put.

Imports msgpack and numpy. Undecodable bytes raise ``Undecodable``, which does not leave the codec.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgpack
import numpy as np

#: The one header of every record that a gateway sends.
HEADER = "k2eg-ser-type"

# Numbers that JSON does not have are written as texts, as the gateway does for a scalar.
_NOT_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# Fields of Normative Types that hold texts: a "NaN" there is a text.
_TEXTS = frozenset({"message", "units", "description", "format", "descriptor", "name", "source", "labels", "choices"})


class Serialization(StrEnum):
    """The encoding of a record; the value is the word in a command."""

    MSGPACK = "msgpack"
    JSON = "json"

    @property
    def header(self) -> bytes:
        """The value of the header ``k2eg-ser-type``."""
        return self.value.capitalize().encode()


class Undecodable(ValueError):
    """The bytes are not a message. Caught inside the codec."""


@dataclass(frozen=True, slots=True)
class BadPutValue:
    """The gateway's reply to an unreadable put value: error code and message, which may be None."""

    error: int
    message: str | None


def dumps(body: Mapping[str, Any], serialization: Serialization) -> bytes:
    """Encode a record's body; numpy arrays become lists, numpy numbers plain ones.

    :raises TypeError: for a type that neither encoding supports.
    """
    if serialization is Serialization.MSGPACK:
        packed = msgpack.packb(body, default=_plain, unicode_errors="replace")
        assert isinstance(packed, bytes)  # noqa: S101 - for the type checker: None is for streams
        return packed
    try:
        text = json.dumps(body, default=_plain, allow_nan=False, ensure_ascii=False)
    except ValueError:
        text = json.dumps(_without_nan(body), default=_plain, allow_nan=False, ensure_ascii=False)
    return text.encode(errors="replace")


def loads(value: bytes, serialization: Serialization) -> dict[str, Any]:
    """Decode a record's body.

    :raises Undecodable: for anything but a map with texts as keys.
    """
    try:
        if serialization is Serialization.MSGPACK:
            # A record may cut a long text inside a character: that character alone is replaced.
            body = msgpack.unpackb(value, raw=False, unicode_errors="replace", strict_map_key=True)
        else:
            body = _numbers_back(json.loads(value))
    except Exception as error:  # foreign bytes may make a decoder raise anything, RecursionError included
        raise Undecodable(f"not {serialization}: {error or type(error).__name__}") from None
    if not isinstance(body, dict) or not all(isinstance(key, str) for key in body):
        raise Undecodable(f"{serialization} of {_kind(body)}, not of a map with texts as keys")
    return body


def serialization_of(headers: Iterable[tuple[str, bytes | str | None]] | None) -> Serialization:
    """Return the encoding that the headers name, in any letter case.

    :raises Undecodable: when the header is missing or its word unknown.
    """
    for name, value in headers or ():
        if name == HEADER:
            word = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
            try:
                return Serialization(word.lower())
            except ValueError:
                raise Undecodable(f"unknown serialisation {word!r}") from None
    raise Undecodable(f"no header {HEADER}")


def encode_put_value(fields: Mapping[str, Any]) -> str:
    """Encode the value of a put: a map of the PV's top-level fields, ``{"value": 3.5}``."""
    return base64.b64encode(dumps(fields, Serialization.MSGPACK)).decode()


def decode_put_value(text: str) -> dict[str, Any] | BadPutValue:
    """Decode the value of a put."""
    try:
        packed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        packed = b""
    if not packed:
        return BadPutValue(-1, "Base64 decode error during put command processing")
    try:
        body = msgpack.unpackb(packed, raw=False, strict_map_key=True)
    except Exception:  # foreign bytes may make the decoder raise anything
        return BadPutValue(-1, None)
    if not isinstance(body, dict):
        return BadPutValue(-3, "Msgpack object need to be a map")
    return body


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _without_nan(value: Any) -> Any:
    """Replace numbers that JSON does not have by texts."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list | tuple) else value


def _numbers_back(body: Any) -> Any:
    """Replace texts that stand for numbers in the trees of PVs; texts beside the trees stay."""
    if not isinstance(body, dict):
        return body
    return {key: _with_nan(item, key) if isinstance(item, dict) else item for key, item in body.items()}


def _with_nan(value: Any, key: str) -> Any:
    if isinstance(value, str):
        return _NOT_NUMBERS.get(value, value) if key not in _TEXTS else value
    if isinstance(value, dict):
        return {name: _with_nan(item, name) for name, item in value.items()}
    return [_with_nan(item, key) for item in value] if isinstance(value, list) else value


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"
