"""The journal's options (``BADGER_K2EG_JOURNAL_*``, or ``journal_*`` in the ini file), its directory and file system.

A network file system is used as long as its locks work (see ``Writer``); the index is never put there, and never uses
SQLite's WAL.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..core import settings
from ..core.settings import Seconds

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_NETWORK = ("nfs", "cifs", "smb", "afs", "lustre", "gpfs", "ceph", "9p", "beegfs", "pvfs", "fuse.sshfs", "glusterfs")
_MOUNTS = Path("/proc/self/mounts")


def _bytes(value: Any) -> Any:
    """``"64M"`` -> 67108864."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower().removesuffix("ib").removesuffix("b")
    unit = text[-1:] if text[-1:].isalpha() else ""
    try:
        return int(float(text.removesuffix(unit)) * _UNITS[unit])
    except (KeyError, ValueError):
        raise ValueError(f"{value!r} is not a size; write a number of bytes, or 64M, 10G") from None


Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=1)]


class JournalSettings(BaseModel):
    """The options of the journal, without their prefix ``journal_``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="whether runs are recorded on disk")
    dir: Path | None = Field(
        default=None, description="the journal's directory; one that others can read makes a shared journal"
    )
    segment_size: Bytes = Field(default=64 << 20, description="size in bytes at which a new segment is started")
    segment_age: Seconds = Field(default=86400.0, description="seconds after which a new segment is started")
    keep_size: Bytes | None = Field(
        default=10 << 30, description="bytes of closed segments to keep; the oldest are removed first"
    )
    keep_days: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="days to keep closed segments; by default for ever"
    )
    on_error: Literal["continue", "raise"] = Field(
        default="continue", description="what a run does when a line cannot be written after the baseline"
    )

    @property
    def directory(self) -> Path:
        """The directory set by ``journal_dir``, or ``journal`` in the user's state directory."""
        return (self.dir or platformdirs.user_state_path("badger-k2eg") / "journal").expanduser().absolute()


def load() -> JournalSettings:
    """Read the options.

    :raises SettingsError: naming the invalid option and its source.
    """
    return settings.family("journal_", JournalSettings)


def index_path(directory: Path) -> Path:
    """Return the index file of a journal: in its directory, or in the user's cache if that is read-only or remote."""
    if os.access(directory, os.W_OK) and network_file_system(directory) is None:
        return directory / "index.sqlite3"
    name = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]
    return platformdirs.user_cache_path("badger-k2eg") / f"index-{name}.sqlite3"


def network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the type of the network file system that holds a path; None if it is local or unknown."""
    kind = file_system(path, mounts)
    return kind if kind.startswith(_NETWORK) else None


def file_system(path: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of the file system that holds a path; empty if it is unknown."""
    if not sys.platform.startswith("linux"):
        return ""
    place, found = path.resolve(), ("", "")
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, mounted, kind, *_ = line.split(" ")
        mounted = mounted.replace("\\040", " ")
        if place.is_relative_to(mounted) and len(mounted) >= len(found[0]):
            found = (mounted, kind)
    return found[1]
