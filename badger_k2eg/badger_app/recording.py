"""Badger's own record of an interface (``_logs``), filled by a sink of its control. Touches no PV."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..core import clock
from ..core.backend import Sink, Update
from ..core.model import Outcome, PutResult, PvAddress, Reading, SetReport, plain


class RecordingSink:
    """A sink that also fills Badger's own record of an interface (``_logs``), with copies of builtin types.

    Badger pickles that record at the end of a run: an array that its owner changes meanwhile, or a value that cannot be
    pickled, would spoil all of it.

    :param sink: the sink that has the last word.
    :param note: called with each entry.
    """

    def __init__(self, sink: Sink, note: Callable[[dict[str, Any]], None]) -> None:
        self._sink = sink
        self._note = note

    def set_began(
        self, before: Mapping[PvAddress, Reading], asked: Mapping[str, Any], validators: Mapping[str, Any]
    ) -> str | None:
        """Note what is asked, before anything is sent."""
        if (reason := self._sink.set_began(before, asked, validators)) is None:
            self._note(set_entry(asked))
        return reason

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        """Pass it on."""
        self._sink.puts_attempted(results)

    def set_finished(self, report: SetReport) -> None:
        """Note what was asked if nothing was sent."""
        if report and not any(map(_has_begun, report.results)):
            self._note(set_entry({result.pv: result.asked for result in report.results}))
        self._sink.set_finished(report)

    def read_finished(self, updates: Mapping[str, Update]) -> None:
        """Note what was read; NaN for what could not be read."""
        values = {name: u.value if isinstance(u, Reading) else math.nan for name, u in updates.items()}
        self._note(read_entry(values))
        self._sink.read_finished(updates)


def _has_begun(result: PutResult) -> bool:
    return result.attempts > 0 or result.outcome not in (Outcome.BLOCKED, Outcome.SKIPPED, Outcome.NOT_SENT)


def set_entry(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a set, in the form of ``badger.interface.log``."""
    return {"timestamp": clock.time(), "action": "set_values", "channel_inputs": recordable(values)}


def read_entry(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a read, in the form of ``badger.interface.log``."""
    return {"timestamp": clock.time(), "action": "get_values", "channel_outputs": recordable(values)}


def recordable(value: Any) -> Any:
    """Copy a value into builtin types; any other object is recorded as its text."""
    value = plain(value.value if isinstance(value, Reading) else value)
    if value is None or isinstance(value, bool):
        return value
    # Subclasses (p4p's ntfloat, an annotated reading) lose what makes them special, and what cannot be pickled.
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(key): recordable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [recordable(item) for item in value]
    return str(value)
