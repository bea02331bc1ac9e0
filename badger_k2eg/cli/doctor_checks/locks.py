"""Can PVs be locked, and who has locked which?"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from ...core.errors import SettingsError
from ...core.owner import Owner
from ...journal.settings import network_file_system
from ...run.pv_locks import locks
from . import Finding, Subject, bad, good, is_writable, note, standing


def check(subject: Subject) -> Iterator[Finding]:
    """Look at the directory, and name every lock with its owner."""
    try:
        registry = locks()
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
            "locks", f"{place} is on {kind}: it may not keep locks; BADGER_K2EG_LOCK_DIR names a folder of this host"
        )
    for pv, owner in locked.items():
        if _is_gone(owner):
            yield bad(pv, f"locked by {owner}, a process that is gone: badger-k2eg unlock --force {pv}")
        else:
            yield note(pv, f"locked by {owner}")
    for pv, owner in left.items():
        yield note(pv, f"free; {owner} has ended without letting go of it")


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
