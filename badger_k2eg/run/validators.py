"""Validators as the record of a run tells them, so that a restore long after it waits as the run did.

Those of our own making can be told; somebody's own function cannot, and a restore does without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ..control.validators import AllOf, Reaches, Within, adapt
from ..core.errors import JournalError

_KINDS: dict[str, type[Within] | type[Reaches]] = {"within": Within, "reaches": Reaches}


def told_validator(validator: object) -> list[dict[str, Any]] | None:
    """Tell a validator in plain values; None for one that is not of our making."""
    try:
        adapted = adapt(validator)
    except ValueError:
        return None
    if not isinstance(adapted, AllOf):
        return None
    return [{"kind": type(part).__name__.lower(), **asdict(part)} for part in adapted.parts]


def validator_of(told: Iterable[Mapping[str, Any]]) -> AllOf:
    """Make the validator again.

    :raises JournalError: where it tells none: somebody has edited the record.
    """
    parts = []
    try:
        for part in told:
            words = dict(part)
            parts.append(_KINDS[words.pop("kind")](**words))
    except (ValueError, TypeError, KeyError) as error:
        raise JournalError(f"the record has no validator: {told!r:.100} ({error})") from None
    return AllOf(tuple(parts))
