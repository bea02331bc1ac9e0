"""``badger-k2eg runs restore RUN``: what a run has set is put back; what differs is shown first.

Owns the words and the exit code; ``run.restore`` does it. Exit codes: 0 everything is where it shall be, 1 something is
not, 3 a guard (limits, a lock, read-only) kept something from its place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import NoSuchRecord
from ..core.printable import finite
from . import FAILED, REFUSED
from .console import Console, Table

if TYPE_CHECKING:
    from ..run.restore_plan import Step

_DONE = ("restored", "already there", "a command, which cannot be undone")
_REFUSED = ("blocked", "read-only")


@click.command()
@click.argument("run")
@click.option("--to", default="start", show_default=True, help="start, best, or the number of an evaluation")
@click.option("--dry-run", is_flag=True, help="show what differs, and set nothing")
@click.option("--yes", is_flag=True, help="ask nothing")
@click.option("--force", is_flag=True, help="also what another has moved since, or locked; on record")
@click.option("--read-only", is_flag=True, help="set nothing on the machine")
@click.option("--json", "as_json", is_flag=True, help="write the outcome to standard output as JSON")
def restore(run: str, to: str, dry_run: bool, yes: bool, force: bool, read_only: bool, as_json: bool) -> int:
    """Put back what RUN has set: to where it was before, to its best point, or to the end of an evaluation.

    RUN is an id, its unique beginning, a name, or `last`. What somebody else has moved since, or another process has
    locked, is left alone and named. It is recorded under the run's own id.
    """
    from ..control import Control, connect
    from ..core.settings import load
    from ..journal import Journal
    from ..run.manifest import way_of
    from ..run.restore import Restore

    journal = Journal.open()
    way = way_of(journal.run(run).manifest)
    settings = load({"read_only": True} if read_only else {})
    control = Control(connect(way), settings)
    console = Console(stderr=as_json)
    said: set[str] = set()

    def say(step: Step) -> None:
        said.add(step.pv)
        console.print(str(step))

    try:
        undo = Restore(control, journal, run, to=to, force=force)
        if not undo.steps:
            why = f", and there is no way back: {unguarded}" if (unguarded := undo.recorded.unguarded) else ""
            raise NoSuchRecord(f"run {undo.recorded.id} has set nothing{' on record' if why else ''}{why}")
        console.print(_table(undo.recorded.id, to, undo.steps))
        if undo.to_do and not dry_run:
            _confirm(len(undo.to_do), yes=yes)
            undo.run(say)
        code = 0 if dry_run else _code(undo.steps)
        if not dry_run:
            # Whole lines: in the table above, what keeps a PV from its place is folded.
            for step in undo.steps:
                if step.fate in _REFUSED and step.pv not in said:
                    say(step)
            console.print(*_verdict(undo.steps), sep="\n")
        if as_json:
            click.echo(json.dumps(_outcome(undo.recorded.id, to, dry_run, undo.steps, code), indent=2, default=str))
        return code
    finally:
        control.close()
        control.backend.close()
        journal.close()


def _confirm(count: int, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: say --yes, or --dry-run to look first")
    if not click.confirm(f"set {count} PV{'s' if count > 1 else ''}?"):
        raise click.Abort


def _code(steps: Sequence[Any]) -> int:
    left = [step for step in steps if step.fate not in _DONE]
    if not left:
        return 0
    return REFUSED if all(step.fate in _REFUSED for step in left) else FAILED


def _table(run: str, to: str, steps: Sequence[Any]) -> Table:
    table = Table(title=f"run {run}: back to {to if to in ('start', 'best') else f'evaluation {to}'}")
    for name in ("PV", "now", "back to", "unit", ""):
        table.add_column(name, justify="right" if name in ("now", "back to") else "left")
    for step in steps:
        table.add_row(
            step.pv, _value(step.now), _value(step.value), step.unit, ", ".join(filter(None, (step.fate, step.message)))
        )
    return table


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:20]} ..."


def _verdict(steps: Sequence[Any]) -> list[str]:
    from ..run.restore_plan import summary

    left = [step for step in steps if step.fate not in _DONE]
    words = [summary(steps)]
    return [*words, f"NOT where it shall be: {', '.join(step.pv for step in left)}"] if left else words


def _outcome(run: str, to: str, dry_run: bool, steps: Sequence[Any], code: int) -> dict[str, Any]:
    from ..core.model import plain

    return {
        "run": run,
        "to": to,
        "dry_run": dry_run,
        "exit_code": code,
        "pvs": [
            {
                "pv": step.pv,
                "now": finite(plain(step.now)),
                "value": finite(plain(step.value)),
                "unit": step.unit,
                "fate": str(step.fate),
                "message": step.message,
            }
            for step in steps
        ],
    }
