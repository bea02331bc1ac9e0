"""The routine of a recorded run, as a file to run again: from the run's manifest, or from Badger's archive.

Badger's window does not tell a plugin which routine it runs: for such a run it is found in the archive, by environment
and time. Imports no Badger.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import yaml

from ..core import clock
from ..core.errors import NoSuchRecord
from ..journal.recorded_run import RecordedRun

#: Seconds that may pass between Run, the time in an archive's name, and the first set.
_PREPARES = 3600.0


def routine_of(run: RecordedRun, archive_root: Path | None = None) -> str:
    """Return the text of a routine file that repeats a run.

    :param archive_root: Badger's archive, for a run of its window.
    :raises NoSuchRecord: when neither the record nor the archive has its routine.
    """
    content: Any = run.manifest.get("file")
    if isinstance(content, dict):
        return str(yaml.safe_dump(content, sort_keys=False))
    archived = None if archive_root is None else _archived(run, archive_root)
    if archived is None:
        where = "" if archive_root is None else f", and {archive_root} has no run of its time and environment"
        raise NoSuchRecord(
            f"run {run.id} was recorded without its routine{where}; give the file itself to badger-k2eg run"
        )
    # Ranges and initial points are in the file: they must not be set around the present values again.
    archived |= {"relative_to_current": False, "initial_point_actions": []}
    del archived["data"]
    return str(yaml.safe_dump(archived, sort_keys=False))


def _archived(run: RecordedRun, root: Path) -> dict[str, Any] | None:
    """Return the archived routine whose first evaluation was measured during the run."""
    environment = run.manifest.get("environment") or {}
    began, ended = run.started_ns * 1e-9, (run.ended_ns or clock.time_ns()) * 1e-9
    for file in root.glob(f"*/*/*/{environment.get('name', '')}-*.yaml"):
        if not began - _PREPARES <= _named_at(file) <= began:
            continue
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        measured = _first_of(content)
        if measured is not None and began <= measured <= ended:
            return dict(content)
    return None


def _named_at(file: Path) -> float:
    """Return the time in an archive's name, like ENVIRONMENT-2026-11-21-125008.yaml; NaN without one."""
    try:
        return time.mktime(time.strptime(file.stem[-17:], "%Y-%m-%d-%H%M%S"))
    except ValueError:
        return math.nan


def _first_of(content: Any) -> float | None:
    """Return the time of the first evaluation in a routine's data, in seconds since the Unix epoch."""
    data = content.get("data") if isinstance(content, dict) else None
    times = (data or {}).get("timestamp") or []
    values = list(times.values()) if isinstance(times, dict) else times
    return float(min(values)) if values else None
