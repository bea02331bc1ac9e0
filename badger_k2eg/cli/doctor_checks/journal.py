"""Can runs be recorded: is there a place for the journal, on which file system, and is there room on the disk?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from ...core.errors import SettingsError
from ...journal.settings import file_system, load, network_file_system
from . import Finding, Subject, bad, good, is_writable, note, standing

_GIB = 1 << 30


def check(subject: Subject) -> Iterator[Finding]:
    """Look at the place and its disk; nothing is made there."""
    try:
        settings = load()
    except SettingsError as error:
        yield bad("journal", str(error))
        return
    place = settings.directory
    if not settings.enabled:
        yield note("journal", "runs are not recorded (BADGER_K2EG_JOURNAL_ENABLED): none can be put back or replayed")
        return
    if not is_writable(place):
        yield bad("journal", f"{place} cannot be written: name another folder by BADGER_K2EG_JOURNAL_DIR")
        return
    yield good("journal", f"{place}" if place.is_dir() else f"{place}, which the first run makes")
    there = standing(place)
    if kind := network_file_system(there):
        yield note("disk", f"{there} is on {kind}: the index of the journal is kept on this host")
    free = shutil.disk_usage(there).free
    room = f"{free / _GIB:.1f} GiB free in {there}" + (f" ({kind})" if (kind := file_system(there)) else "")
    if free < settings.segment_size:
        yield bad(
            "disk", f"{room}, less than one segment of the journal: make room, or move it (BADGER_K2EG_JOURNAL_DIR)"
        )
    elif settings.keep_size is not None and free < settings.keep_size:
        yield note("disk", f"{room}; the journal may grow to {settings.keep_size / _GIB:.1f} GiB (journal_keep_size)")
    else:
        yield good("disk", room)
