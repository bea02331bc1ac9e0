"""The routine of a recorded run, as a file to run again: from the run's manifest, or from Badger's archive.

Badger's window does not tell a plugin which routine it runs: of such a run the archive has it, by environment and time.
Imports no Badger.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml

from ..errors import NoSuchRecord
from ..journal.runs import RecordedRun

#: Seconds between the time in an archive's name and the first set of its run.
_NEAR = 60.0


def routine_of(run: RecordedRun, archive_root: Path | None = None) -> str:
    """Give the text of a routine file that does again what a run did.

    :param archive_root: Badger's archive, for a run of its window.
    :raises NoSuchRecord: when neither the record nor the archive has its routine.
    """
    content: Any = run.manifest.get("file")
    if isinstance(content, dict):
        return str(yaml.safe_dump(content, sort_keys=False))
    archived = None if archive_root is None else _archived(run, archive_root)
    if archived is None:
        where = "" if archive_root is None else f", and there is none of that time in {archive_root}"
        raise NoSuchRecord(
            f"run {run.id} was recorded without its routine{where}; give the file itself to badger-k2eg run"
        )
    content = yaml.safe_load(archived.read_text(encoding="utf-8"))
    content.pop("data", None)
    return str(yaml.safe_dump(content, sort_keys=False))


def _archived(run: RecordedRun, root: Path) -> Path | None:
    environment = run.manifest.get("environment") or {}
    near = []
    for file in root.glob(f"*/*/*/{environment.get('name', '')}-*.yaml"):
        try:
            moment = time.mktime(time.strptime(file.stem.rpartition("-")[0][-10:] + file.stem[-7:], "%Y-%m-%d-%H%M%S"))
        except ValueError:
            continue
        if (away := abs(moment - run.started_ns * 1e-9)) <= _NEAR:
            near.append((away, file))
    return min(near)[1] if near else None
