"""Lost runs: those whose process died (SIGKILL, a crash, a power cut). The next run finds and closes them."""

from __future__ import annotations

import logging
import socket
import threading

from ..core.errors import ControlError
from ..core.records import Record, RecordKind
from ..journal import Journal
from ..journal.recorded_run import RecordedRun
from .run import Reason, Run

logger = logging.getLogger("badger_k2eg")


def look(run: Run) -> None:
    """Look for lost runs in the background when a run begins: rebuilding an index may take its time."""
    if (journal := run.recorder.journal) is not None:
        threading.Thread(target=report, args=(journal, run.id), name="lost runs", daemon=True).start()


def report(journal: Journal, but: str = "") -> None:
    """Close each lost run in the journal, and log one line with the command that restores the machine.

    :param but: the id of the run that looks.
    """
    try:
        lost = [each for each in journal.runs() if each.id != but and is_lost(each)]
        for each in lost:
            close(journal, each)
            logger.warning(
                "run %s of %s was lost with its process; "
                "to put back what it set: badger-k2eg runs restore %s --to start",
                each.id,
                each.first.user or "an unknown user",
                each.id,
            )
    except (ControlError, OSError) as error:
        # Commands that read the journal report a damaged index; the run that begins now is more important.
        logger.warning("lost runs cannot be looked for: %s", error)


def is_lost(run: RecordedRun) -> bool:
    """Return whether a run is open although its process is gone."""
    return run.open and run.first.host == socket.gethostname() and run.alive is False


def close(journal: Journal, run: RecordedRun) -> None:
    """Write the end that a lost run could not write itself."""
    journal.write(
        Record(
            kind=RecordKind.RUN_END,
            run=run.id,
            begin=run.event.start,
            name=Reason.LOST,
            message="its process ended before the run did",
        ),
        sync=True,
    )
