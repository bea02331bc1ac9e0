"""What badger-k2eg needs of this host: valid options, a place for the journal with room on its disk, and PV locks."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator

from ...core import settings
from ...core.errors import SettingsError
from ...core.owner import Owner
from ...journal import settings as journal_settings
from ...journal.settings import file_system, network_file_system
from ...run import pv_locks
from . import Finding, Subject, bad, good, is_writable, note, standing

_GIB = 1 << 30


def check(_: Subject) -> Iterator[Finding]:
    """Check options, journal and locks; nothing is created."""
    yield options()
    yield from journal()
    yield from locks()


def options() -> Finding:
    """Check the options of every source; name those that differ from the defaults, and where they come from."""
    try:
        given = settings.sources()
        in_force = settings.resolve([options for _, options in given])
    except SettingsError as error:
        return bad("options", str(error))
    changed = in_force.model_dump(mode="json", exclude_defaults=True)
    told = [f"{name} = {value} ({' and '.join(settings.origins(name, given))})" for name, value in changed.items()]
    return good("options", ", ".join(told) or "all by default")


def journal() -> Iterator[Finding]:
    """Check that runs can be recorded: the journal's directory, its file system, and the room on its disk."""
    try:
        place_settings = journal_settings.load()
    except SettingsError as error:
        yield bad("journal", str(error))
        return
    place = place_settings.directory
    if not place_settings.enabled:
        yield note("journal", "runs are not recorded (BADGER_K2EG_JOURNAL_ENABLED): none can be put back or replayed")
        return
    if not is_writable(place):
        yield bad("journal", f"{place} cannot be written: name another folder by BADGER_K2EG_JOURNAL_DIR")
        return
    yield good("journal", f"{place}" if place.is_dir() else f"{place}, which the first run creates")
    there = standing(place)
    if kind := network_file_system(there):
        yield note("disk", f"{there} is on {kind}: the index of the journal is kept on this host")
    free = shutil.disk_usage(there).free
    room = f"{free / _GIB:.1f} GiB free in {there}" + (f" ({kind})" if (kind := file_system(there)) else "")
    if free < place_settings.segment_size:
        yield bad(
            "disk", f"{room}, less than one segment of the journal: make room, or move it (BADGER_K2EG_JOURNAL_DIR)"
        )
    elif place_settings.keep_size is not None and free < place_settings.keep_size:
        limit = place_settings.keep_size / _GIB
        yield note("disk", f"{room}; the journal may grow to {limit:.1f} GiB (journal_keep_size)")
    else:
        yield good("disk", room)


def locks() -> Iterator[Finding]:
    """Check the directory of the PV locks, and name every lock with its owner."""
    try:
        registry = pv_locks.locks()
    except SettingsError as error:
        yield bad("locks", str(error))
        return
    place = registry.directory
    if not is_writable(place):
        yield bad(
            "locks", f"{place} cannot be written: nothing can be set; name another folder by BADGER_K2EG_LOCK_DIR"
        )
        return
    locked, left = registry.locked(), registry.left_behind()
    yield good("locks", f"{len(locked)} PVs locked, in {place}")
    if kind := network_file_system(standing(place)):
        yield note(
            "locks",
            f"{place} is on {kind}, which may not keep locks: BADGER_K2EG_LOCK_DIR names a folder of this host",
        )
    for pv, owner in locked.items():
        if _is_gone(owner):
            yield bad(pv, f"locked by {owner}, a process that has ended: badger-k2eg unlock --force {pv}")
        else:
            yield note(pv, f"locked by {owner}")
    for pv, owner in left.items():
        yield note(pv, f"free; {owner} ended without releasing it")


def _is_gone(owner: Owner) -> bool:
    if owner.host != socket.gethostname() or not owner.pid:
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
