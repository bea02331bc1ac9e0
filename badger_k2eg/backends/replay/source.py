"""The choice and source of a recorded run: ``BADGER_K2EG_REPLAY_*``, or ``replay_*`` in the ini file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ...core import settings
from ...core.errors import SettingsError
from ...core.suggestions import did_you_mean
from ...journal import Journal, JournalSettings
from ...journal.settings import load as load_journal
from . import Matching
from .recording import Recording

logger = logging.getLogger("badger_k2eg")

_NAMED = 3


def _matching(value: Any) -> Any:
    if isinstance(value, str) and value.lower() not in list(Matching):
        raise ValueError(f"there is no matching {value!r}; {did_you_mean(value, list(Matching), 'matchings')}")
    return value.lower() if isinstance(value, str) else value


class ReplaySettings(BaseModel):
    """The options of a replay, without their prefix ``replay_``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field(default="last", description="the recorded run: its id, the beginning of one, its name, or last")
    matching: Annotated[Matching, BeforeValidator(_matching)] = Field(
        default=Matching.STRICT, description="which recorded point stands for a setpoint: strict, nearest or time"
    )
    speed: float = Field(default=1.0, gt=0.0, allow_inf_nan=False, description="for time: how much faster than then")
    source: Path | None = Field(
        default=None, description="a journal's directory, or an exported run (zip); by default one's own journal"
    )


def load() -> ReplaySettings:
    """Load the options.

    :raises SettingsError: naming the wrong option and its source.
    """
    return settings.family("replay_", ReplaySettings)


def open_recording(chosen: ReplaySettings) -> Recording:
    """Read the chosen run.

    :raises NoSuchRecord: when there is no such run, or it set nothing.
    :raises JournalError: when the source is neither a journal nor an exported run.
    :raises SettingsError: when there is no such file or directory.
    """
    source = chosen.source
    if source is not None and not source.exists():
        raise SettingsError(f"{source}: no such file or directory")
    if source is not None and source.is_file():
        # Imported here, as listing plugins reads no archives.
        from ...journal.export import opened

        with opened(source) as run:
            return _whole(Recording(run.id, run.records()))
    journal = Journal.open(load_journal() if source is None else JournalSettings(dir=source))
    try:
        run = journal.run(chosen.run)
        return _whole(Recording(run.id, run.records()))
    finally:
        journal.close()


def _whole(recording: Recording) -> Recording:
    if recording.damaged:
        lines = ", ".join(map(str, recording.damaged[:_NAMED])) + (", …" if len(recording.damaged) > _NAMED else "")
        words = "replay of run %s: line %s is damaged or was edited; it is replayed as it is, and may be wrong"
        logger.warning(words, recording.run, lines)
    return recording
