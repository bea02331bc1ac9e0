"""Ties a run to its status PVs: who owns the prefix, what is shown, and STOP."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..control import Control
from ..core.deadline import Deadline
from ..core.model import Reading
from ..core.owner import this_owner
from . import status_pvs
from .run import Run

logger = logging.getLogger("badger_k2eg")

#: Seconds to look for a run on another host.
_PATIENCE = 1.0


def claimed(control: Control, run: Run) -> str | None:
    """Return why the run may not begin: an older run uses the prefix. Advisory, as it depends on the network.

    :param run: checked before its first set only.
    """
    name = status_pvs.load().name if run.holds and not run.began else None
    if name is None:
        return None
    pvs = [f"pva://{name}:OWNER", f"pva://{name}:RUN"]
    found = control.updates(pvs, Deadline(_PATIENCE))
    owner, other = (update.value if isinstance(update, Reading) else "" for update in (found[pv] for pv in pvs))
    return f"{name}:OWNER: {owner} runs already (run {other})" if owner and other != run.id else None


def serve(run: Run, stop: Callable[[str], object]) -> None:
    """Serve the status PVs of a run until it ends.

    :param stop: called with a message when STOP is put.
    """
    name = status_pvs.load().name
    if name is None or not run.holds:
        return
    pvs = status_pvs.StatusPvs(name, str(this_owner(run.id)), run.id, stop)
    run.on_end.append(lambda _: pvs.close())
    run.evaluations.on_begin.append(pvs.evaluation)
    run.evaluations.on_best.append(pvs.best)
