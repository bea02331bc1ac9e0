"""The record of runs on disk: append-only segments of JSON lines, and an index that can be deleted at any time.

``core/records.py`` defines a line. The segments are the truth, and can be read with ``less`` after a crash; the index
is rebuilt from them whenever it is missing or stale. Does not know Control, Badger, or a transport.
"""

from __future__ import annotations

from .journal import Journal
from .lookup import Event
from .query import Query
from .recorded_run import Evaluation, RecordedRun
from .settings import JournalSettings

__all__ = ["Evaluation", "Event", "Journal", "JournalSettings", "Query", "RecordedRun"]
