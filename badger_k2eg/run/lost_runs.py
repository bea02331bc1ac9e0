"""Runs that ended without a word (SIGKILL, a crash, a power cut): found by the next one, and offered to be undone."""

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
    """Look for them when a run begins, beside it: an index that is made anew may take its time."""
    if (journal := run.recorder.journal) is not None:
        threading.Thread(target=report, args=(journal, run.id), name="lost runs", daemon=True).start()


def report(journal: Journal, but: str = "") -> None:
    """Say one line in the log for each, with the command that undoes it; and close it in the journal.

    :param but: the id of the run that looks.
    """
    try:
        lost = [each for each in journal.runs() if each.id != but and is_lost(each)]
        for each in lost:
            close(journal, each)
            logger.warning(
                "run %s of %s ended without a word; to put back what it set: badger-k2eg runs restore %s --to start",
                each.id,
                each.first.user or "somebody",
                each.id,
            )
    except (ControlError, OSError) as error:
        # A damaged index is told by whoever asks for it; the run that begins now matters more.
        logger.warning("runs that ended without a word cannot be looked for: %s", error)


def is_lost(run: RecordedRun) -> bool:
    """Whether it is open, and its process is gone."""
    return run.open and run.first.host == socket.gethostname() and run.alive is False


def close(journal: Journal, run: RecordedRun) -> None:
    """Write the end that it could not write itself."""
    journal.write(
        Record(
            kind=RecordKind.RUN_END,
            run=run.id,
            begin=run.event.start,
            name=Reason.LOST,
            message="its process ended without a word",
        ),
        sync=True,
    )
