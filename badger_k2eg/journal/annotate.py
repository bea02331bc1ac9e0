"""Notes, tags, names, parents and files that are added to a run after it has ended; each is a new line."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from pathlib import Path

from ..core.errors import JournalError, NoSuchRecord
from ..core.records import Record, RecordKind
from .journal import Journal
from .naming import file_name, inside
from .recorded_run import RecordedRun

#: The folder of attached files, inside the journal, and inside an export.
ATTACHMENTS = "attachments"


def note(journal: Journal, run: RecordedRun, text: str) -> None:
    """Add a note to a run.

    :raises JournalWriteError: when it cannot be written (as everywhere in this module).
    """
    _say(journal, Record(kind=RecordKind.NOTE, run=run.id, message=text))


def tag(journal: Journal, run: RecordedRun, name: str, value: str | float | None) -> None:
    """Set a tag of a run: a text, or a number that can be searched by range; None removes it.

    :raises NoSuchRecord: when the tag to remove does not exist.
    """
    if value is None and name not in run.tags:
        raise NoSuchRecord(f"run {run.id} has no tag {name!r}; it has {', '.join(run.tags) or 'none'}")
    _say(journal, Record(kind=RecordKind.TAG, run=run.id, name=name, value=value))


def rename(journal: Journal, run: RecordedRun, name: str) -> None:
    """Name a run; its id stays."""
    _say(journal, Record(kind=RecordKind.RENAME, run=run.id, name=name))


def link(journal: Journal, run: RecordedRun, parent: RecordedRun) -> None:
    """Record that a run continues another.

    :raises JournalError: when the other one descends from it.
    """
    above: RecordedRun | None = parent
    while above is not None:
        if above.id == run.id:
            raise JournalError(f"run {parent.id} already continues {run.id}: a run cannot be its own ancestor")
        try:
            above = journal.run(above.parent) if above.parent else None
        except NoSuchRecord:  # archived
            above = None
    _say(journal, Record(kind=RecordKind.LINK, run=run.id, data={"parent": parent.id}))


def attach(journal: Journal, run: RecordedRun, file: Path) -> Path:
    """Copy a file into the journal as an attachment of a run, and return the copy.

    :raises JournalError: when a different file of that name is attached, or the folder is a link to another place.
    :raises OSError: when it cannot be copied.
    """
    folder = inside(journal.directory / ATTACHMENTS, file_name(run.id))
    target = inside(folder, file_name(file.name))
    digest = sha256(file)
    if target.exists():
        if sha256(target) != digest:
            raise JournalError(f"run {run.id} already has a different file {file.name}; rename this one")
        if any(record.name == file.name for record in run.attachments):
            return target
    folder.mkdir(parents=True, exist_ok=True)
    # The copy is complete or does not exist.
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(file, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    data = {
        "path": str(target.relative_to(journal.directory)),
        "bytes": target.stat().st_size,
        "sha256": digest,
    }
    _say(journal, Record(kind=RecordKind.ATTACH, run=run.id, name=file.name, data=data))
    return target


def attached(directory: Path, record: Record) -> Path:
    """Return the place of an attached file in a journal.

    :raises JournalError: when the line points out of the journal.
    """
    told = str((record.data or {}).get("path", ""))
    try:
        path = (directory / told).resolve()
        if path.is_relative_to((directory / ATTACHMENTS).resolve()):
            return path
    except (OSError, ValueError, RuntimeError):  # a NUL in it, too long, a loop of links
        pass
    raise JournalError(f"line {record.line}: {told} is not an attachment of this journal")


def tag_value(text: str) -> str | float:
    """Return the value of a tag: a number if the text is one, else the text."""
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(journal: Journal, record: Record) -> None:
    journal.write(record, required=True, sync=True)
