"""What a run is a run of: the manifest, completed by what holds for every run; and the way to its PVs."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .. import __version__
from ..backends import ThroughK2eg, Way
from ..core.errors import JournalError
from ..core.owner import this_owner

_PACKAGES = ("badger-opt", "xopt", "p4p", "confluent-kafka", "numpy")


def described(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Add versions, user and host."""
    versions = {"badger-k2eg": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    owner = this_owner()
    return {"user": owner.user, "host": owner.host, "process": owner.pid, "versions": versions, **manifest}


def recorded_way(way: Way) -> Any:
    """Give the way to the PVs as a manifest tells it."""
    return way if isinstance(way, str) else asdict(way)


def way_of(manifest: Mapping[str, Any]) -> Way:
    """Find the way to the PVs of a run; of one that does not tell, PVAccess."""
    way = manifest.get("way") or "pva"
    try:
        return ThroughK2eg(**way) if isinstance(way, Mapping) else str(way)
    except TypeError:
        raise JournalError(f"the run does not say how its PVs are reached: {way!r} is no way") from None
