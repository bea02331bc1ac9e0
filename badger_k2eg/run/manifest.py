"""What the record of a run tells about the run as a whole: versions and user, the way to its PVs, and its validators.

The way and the validators are read back by a restore, which may come long after. A user's own function cannot be
recorded, so a restore goes without it.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from .. import __version__
from ..backends import ThroughK2eg, Way
from ..control.validators import AllOf, Reaches, Within, adapt
from ..core.errors import JournalError
from ..core.owner import this_owner

_PACKAGES = ("badger-opt", "xopt", "p4p", "confluent-kafka", "numpy")
_KINDS: dict[str, type[Within] | type[Reaches]] = {"within": Within, "reaches": Reaches}


def described(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with versions, user, host and process added."""
    versions = {"badger-k2eg": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    owner = this_owner()
    return {"user": owner.user, "host": owner.host, "process": owner.pid, "versions": versions, **manifest}


def recorded_way(way: Way) -> Any:
    """Return the way to the PVs as a manifest tells it."""
    return way if isinstance(way, str) else asdict(way)


def way_of(manifest: Mapping[str, Any]) -> Way:
    """Return the way to the PVs of a run; PVAccess where its manifest tells none.

    :raises JournalError: where the record was edited.
    """
    way = manifest.get("way") or "pva"
    try:
        return ThroughK2eg(**way) if isinstance(way, Mapping) else str(way)
    except TypeError:
        raise JournalError(f"the run does not say how its PVs are reached: {way!r} is not a way") from None


def told_validator(validator: object) -> list[dict[str, Any]] | None:
    """Return a validator as plain values; None for a user's own function."""
    try:
        adapted = adapt(validator)
    except ValueError:
        return None
    if not isinstance(adapted, AllOf):
        return None
    return [{"kind": type(part).__name__.lower(), **asdict(part)} for part in adapted.parts]


def validator_of(told: Iterable[Mapping[str, Any]]) -> AllOf:
    """Return the validator that plain values tell.

    :raises JournalError: where the record was edited.
    """
    parts = []
    try:
        for part in told:
            words = dict(part)
            parts.append(_KINDS[words.pop("kind")](**words))
    except (ValueError, TypeError, KeyError) as error:
        raise JournalError(f"the record has no validator: {told!r:.100} ({error})") from None
    return AllOf(tuple(parts))
