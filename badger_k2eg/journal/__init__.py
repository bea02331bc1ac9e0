"""The record of what was done: append-only segments of JSON lines, and an index that can be thrown away.

``records.py`` has the schema of a line. The segments are the truth, and can be read with ``less`` after a crash; the
index is made from them whenever it is missing or stale. Imports records, settings, deadline, fork and errors, and must
not know Control, Badger, or a transport.
"""

from __future__ import annotations

from .journal import Journal
from .lookup import Event
from .query import Query
from .recorded_run import Evaluation, RecordedRun
from .settings import JournalSettings

__all__ = ["Evaluation", "Event", "Journal", "JournalSettings", "Query", "RecordedRun"]
