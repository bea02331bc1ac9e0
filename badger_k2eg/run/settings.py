"""Options of runs: ``BADGER_K2EG_RUN_*``, or ``run_*`` in the ini file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..core import settings
from ..core.settings import Patterns, Seconds

Policy = Literal["leave", "restore"]


class RunSettings(BaseModel):
    """The options of a run, without their prefix ``run_``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_cancelled: Policy = Field(
        default="leave", description="what becomes of the setpoints of a run that is stopped: leave, or restore"
    )
    on_exception: Policy = Field(
        default="leave", description="what becomes of the setpoints of a run that fails: leave, or restore"
    )
    restore_timeout: Seconds = Field(default=30.0, description="seconds that putting back may take at the end of a run")
    on_foreign_move: Literal["record", "pause"] = Field(
        default="record", description="what a run does when somebody else moves one of its PVs: record, or pause"
    )
    record: Patterns = Field(default=(), description="PVs of which every update is recorded for the length of a run")


def load() -> RunSettings:
    """Return the options.

    :raises SettingsError: naming the wrong one and its source.
    """
    return settings.family("run_", RunSettings)
