"""``badger-k2eg get``, ``put``, ``monitor``, ``snapshot``, ``unlock``: PVs from the shell, directly or through K2EG.

A put takes the one write path (guard, retry, read-back, read-only); what it sets is locked and recorded, as in a run.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import numpy as np

from ..control import Control
from ..core.backend import Update
from ..core.deadline import Deadline
from ..core.errors import PvError, PvNameError, SetError, SetpointBlocked, SettingsError
from ..core.model import Kind, Outcome, PutResult, PvAddress, Reading, SetReport, Severity
from ..core.printable import finite
from ..core.suggestions import in_lines
from . import FAILED, REFUSED, USAGE
from .connection_options import control_by, reached
from .console import Console, Table, Text, say
from .signals import ended_by_signals

F = TypeVar("F", bound=Callable[..., Any])

_STYLES = {Severity.MINOR: "yellow", Severity.MAJOR: "red", Severity.INVALID: "magenta"}
# Elements of an array that are shown to people.
_SHOWN = 8


def _reached(command: F) -> F:
    """Add the options that say how PVs are reached and how they are shown."""
    return click.option("--json", "as_json", is_flag=True, help="write JSON")(reached(command))


@click.command()
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@_reached
def get(uris: Sequence[str], as_json: bool, **way: Any) -> int:
    """Read PVs: pva://NAME, ca://NAME, or a bare NAME over PVAccess."""
    with _Way(uris, **way) as control:
        return _show(control.updates(list(dict.fromkeys(uris))), as_json)


@click.command()
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@click.option(
    "--window",
    type=click.FloatRange(min=0.0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="with K2EG: seconds for which values are collected",
)
@_reached
def snapshot(uris: Sequence[str], window: float, as_json: bool, **way: Any) -> int:
    """Read PVs at one instant, as nearly as the way to them allows."""
    with _Way(uris, **way) as control:
        addresses = {uri: PvAddress.parse(uri) for uri in uris}
        deadline = Deadline(control.settings.timeout + window)
        updates = control.backend.snapshot(list(dict.fromkeys(addresses.values())), window, deadline)
        return _show({uri: updates[address] for uri, address in addresses.items()}, as_json)


@click.command()
@click.argument("pairs", nargs=-1, required=True, metavar="URI VALUE...")
@click.option("--force", is_flag=True, help="also set what another process has locked; this is recorded")
@_reached
def put(pairs: Sequence[str], force: bool, as_json: bool, **way: Any) -> int:
    """Set PVs, each URI followed by its VALUE: a number, a text, the label of an enum, or JSON.

    Nothing is set if one of them would be refused: by limits, by BADGER_K2EG_READ_ONLY and other restrictions, or
    because a run of another process has locked it. Each put is recorded in the journal (`badger-k2eg log query --pv
    URI`); if the journal cannot be written, nothing is set. Exit code: 0 done, 1 failed, 2 a mistake in the command, 3
    refused by a guard, by a lock, or by read-only.
    """
    if len(pairs) % 2:
        raise click.UsageError("each URI needs a VALUE after it")
    texts = dict(zip(pairs[::2], pairs[1::2], strict=True))
    if 2 * len(texts) < len(pairs):
        raise click.UsageError("the same URI is given twice")
    from ..run.outside_puts import outside

    with _Way(list(texts), **way) as control, outside(control, "put", force=force) as ours:
        present = control.updates(texts)
        values = {uri: _value(text, present[uri]) for uri, text in texts.items()}
        try:
            report = control.set(values)
        except SetError as error:
            say(*(ours.unrecorded or in_lines(error)).split("\n"), err=True)
            if as_json and error.report is not None:
                click.echo(json.dumps(_told(error.report)))
            return REFUSED if isinstance(error, SetpointBlocked) and ours.unrecorded is None else FAILED
        say(*[json.dumps(_told(report))] if as_json else map(_ended, report.results))
        return REFUSED if any(result.outcome is Outcome.SKIPPED for result in report.results) else 0


@click.command()
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@click.option("--count", type=click.IntRange(min=1), help="end after this many updates")
@_reached
def monitor(uris: Sequence[str], count: int | None, as_json: bool, **way: Any) -> int:
    """Show PVs whenever they change, until Ctrl-C."""
    news: queue.SimpleQueue[tuple[str, Update]] = queue.SimpleQueue()
    console = Console()
    shown = 0
    with _Way(uris, **way) as control, ended_by_signals() as ended:
        for uri in dict.fromkeys(uris):
            control.monitor(uri, lambda update, uri=uri: news.put((uri, update)))  # type: ignore[misc]
        while not ended.is_set() and (count is None or shown < count):
            try:
                uri, update = news.get(timeout=0.2)
            except queue.Empty:
                continue
            shown += 1
            if as_json:
                click.echo(json.dumps({"pv": uri, **_plain(update)}))
            else:
                console.print(Text("  ").join(_cells(uri, update)))
    return 0


@click.command()
@click.argument("pvs", nargs=-1)
@click.option("--force", is_flag=True, help="remove the locks, whoever owns them")
def unlock(pvs: tuple[str, ...], force: bool) -> int:
    """Show who has locked PVS (all locked PVs, if none is named); with --force, remove the locks.

    A lock is released when its owner ends, however that happens. The owner of a lock that was removed is refused at its
    next set. The removal is recorded in the journal.
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
            # Recorded first: what cannot be recorded is not done.
            words = f"unlocked by force; it was locked by {owner}"
            event = Record(kind=RecordKind.EVENT, name="unlock", pv=pv, message=words, level=Level.WARNING)
            Journal.open().write(event, required=True, sync=True)
            registry.unlock(pv)
            say(f"{pv} {words}")
    return 0


class _Way:
    """A control that is open for the time of a command."""

    def __init__(self, names: Sequence[str], **way: Any) -> None:
        try:
            for name in names:
                PvAddress.parse(name)
        except PvNameError as error:
            raise click.UsageError(str(error)) from None
        self._control = control_by(way)

    def __enter__(self) -> Control:
        return self._control

    def __exit__(self, *exception: object) -> None:
        self._control.close()
        self._control.backend.close()


def _show(updates: Mapping[str, Update], as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({uri: _plain(update) for uri, update in updates.items()}, indent=2))
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("PV", "value", "unit", "alarm", "time"):
            table.add_column(heading, overflow="fold")
        for uri, update in updates.items():
            table.add_row(*_cells(uri, update))
        Console().print(table)
    errors = [update for update in updates.values() if isinstance(update, PvError)]
    for error in errors:
        say(error, err=True)
    if any(isinstance(error, PvNameError) for error in errors):
        return USAGE
    return FAILED if errors else 0


def _cells(uri: str, update: Update) -> list[Text]:
    if isinstance(update, PvError):
        return [Text(uri), Text("-"), Text(""), Text("no reading", "red"), Text("")]
    alarm = update.severity.name if update.severity else ""
    if alarm and update.message:
        alarm += f" ({update.message})"
    style = _STYLES.get(update.severity, "")
    return [Text(uri), Text(_text(update), style), Text(update.units), Text(alarm, style), Text(_time(update) or "")]


def _text(reading: Reading) -> str:
    value = reading.value
    if reading.label is not None:
        return f"{reading.label} ({value})"
    if isinstance(value, np.ndarray | list):
        shown = ", ".join(str(item) for item in reading.plain[:_SHOWN])
        return f"[{shown}{f', … {len(value)} in all' if len(value) > _SHOWN else ''}]"
    if isinstance(value, float) and reading.precision:
        return f"{value:.{reading.precision}f}"
    return "a structure: --json shows it" if value is None else str(reading.plain)


def _time(reading: Reading) -> str | None:
    if reading.timestamp is None:
        return None
    return datetime.fromtimestamp(reading.timestamp, UTC).astimezone().isoformat(sep=" ", timespec="milliseconds")


def _plain(update: Update) -> dict[str, Any]:
    """Return an update in the types of JSON."""
    if isinstance(update, PvError):
        return {"error": update.message}
    told: dict[str, Any] = {
        "value": finite(update.plain if update.type.kind is not Kind.OTHER else dict(update.tree)),
        "units": update.units,
        "severity": update.severity.name,
        "message": update.message,
        "time": _time(update),
        "type": str(update.type),
    }
    if update.label is not None:
        told["label"] = update.label
    return told


def _ended(result: PutResult) -> str:
    if result.outcome is Outcome.SKIPPED:
        return f"{result.pv} = {result.asked!r}: not set ({result.message})"
    return str(result)


def _told(report: SetReport) -> dict[str, Any]:
    return {
        result.pv: {"outcome": str(result.outcome), "asked": finite(result.asked), "message": result.message}
        for result in report.results
    }


def _value(text: str, present: Update) -> Any:
    """Parse a value by the type of the PV; without a reading the guard refuses it anyway."""
    if isinstance(present, Reading) and not present.type.array:
        if present.type.kind is Kind.STRING or text in present.choices:
            return text
    try:
        return json.loads(text)
    except ValueError:
        return text
