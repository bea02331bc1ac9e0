"""``badger-k2eg unlock``: who holds which PV; and taking a lock away from an owner that does not let go."""

from __future__ import annotations

import click

from ..core.errors import SettingsError
from .console import say


@click.command()
@click.argument("pvs", nargs=-1)
@click.option("--force", is_flag=True, help="take the locks away from their owners")
def unlock(pvs: tuple[str, ...], force: bool) -> int:
    """Show who has locked PVS (all that are locked, if none is named); with --force, take the locks away.

    A lock is freed by itself when its owner ends, however that happens. The owner of one that was taken away finds out
    at its next set, which is refused. It is on record in the journal.
    """
    from ..core.records import Level, Record, RecordKind
    from ..journal import Journal
    from ..run.pv_locks import locks

    registry = locks()
    if force and not pvs:
        raise SettingsError("unlock --force: name the PVs")
    owners = {pv: registry.owner(pv) for pv in pvs} if pvs else dict(registry.locked())
    if not owners:
        say("no PV is locked")
    for pv, owner in owners.items():
        if owner is None:
            say(f"{pv} is not locked")
        elif not force:
            say(f"{pv} is locked by {owner}")
        else:
            # On record first: what cannot be told is not done.
            words = f"unlocked by force; it was locked by {owner}"
            event = Record(kind=RecordKind.EVENT, name="unlock", pv=pv, message=words, level=Level.WARNING)
            Journal.open().write(event, required=True, sync=True)
            registry.unlock(pv)
            say(f"{pv} {words}")
    return 0
