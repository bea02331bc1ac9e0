"""``badger-k2eg runs diff``: the setpoints of two runs side by side, or those of a run and what the machine has now."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from ..core.errors import NoSuchRecord, PvError
from ..journal import Journal, RecordedRun
from . import journal_output as text
from .console import Console, Table, Text

NOW = "now"


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison.

    :ivar values: ``{pv: value}``.
    :ivar missing: ``{pv: why}`` of those that have none.
    :ivar damaged: ``{pv: line}`` of those that come out of a line whose checksum does not fit.
    """

    name: str
    values: dict[str, Any]
    missing: dict[str, str]
    damaged: dict[str, int] = field(default_factory=dict)


@click.command()
@click.argument("left", metavar="RUN")
@click.argument("right", metavar="RUN|now")
@click.option("--at", default="end", show_default=True, help="of RUN: start, best, end, or the number of an evaluation")
@click.option("--all", "everything", is_flag=True, help="what is the same, too")
@text.journal_option
@text.json_option
def diff(left: str, right: str, at: str, everything: bool, place: Path | None, as_json: bool) -> None:
    """Compare the setpoints of two runs, or of a run and the machine now (which is only read)."""
    with text.opened(place) as journal:
        one, one_run = _of_run(journal, left, at)
        if right == NOW:
            other, manifests = _of_machine(one_run), []
        else:
            other, run = _of_run(journal, right, at)
            manifests = _changed(one_run.manifest, run.manifest)
        units = {pv: record.unit for pv, record in one_run.baseline().items()}
    damaged: dict[str, list[int]] = {}
    for side in (one, other):
        for pv, line in side.damaged.items():
            damaged[pv] = sorted({*damaged.get(pv, []), line})
    rows = [
        {
            "pv": pv,
            "unit": units.get(pv),
            "left": _cell(one, pv),
            "right": _cell(other, pv),
            "difference": _gap(one.values.get(pv), other.values.get(pv)),
            **({"damaged": damaged[pv]} if pv in damaged else {}),
        }
        for pv in dict.fromkeys([*one.values, *other.values, *other.missing])
        if everything or pv in damaged or not _same(one.values.get(pv), other.values.get(pv))
    ]
    if as_json:
        text.print_json({"left": one.name, "right": other.name, "setpoints": rows, "manifest": manifests})
        return
    out = Console()
    if not rows and not manifests:
        out.print(f"{one.name} and {other.name}: no difference")
        return
    table = Table(header_style="bold")
    for heading in ("PV", one.name, other.name, "difference"):
        table.add_column(Text(heading), justify="left" if heading == "PV" else "right")
    for row in rows:
        cells = [text.value_text(row[key], row["unit"]) if row[key] is not None else "" for key in ("left", "right")]
        gap = "" if row["difference"] is None else f"{row['difference']:+.6g}"
        gap = ", ".join(filter(None, (gap, text.damage(row.get("damaged", [])))))
        table.add_row(row["pv"], *cells, gap, style="red" if "damaged" in row else "")
    if rows:
        out.print(table)
    for change in manifests:
        out.print(f"{change['name']}: {change['left']} -> {change['right']}")


def _of_run(journal: Journal, words: str, at: str) -> tuple[Side, RecordedRun]:
    run = journal.run(words)
    if at == "best" and run.best is None:
        raise NoSuchRecord(f"run {run.id} does not say which evaluation was its best; give the number of one")
    if at not in ("start", "best", "end") and not at.isdigit():
        raise NoSuchRecord(f"--at {at}: write start, best, end, or the number of an evaluation")
    evaluation = {"start": 0, "best": run.best, "end": None}[at] if not at.isdigit() else int(at)
    history = run.history(evaluation)
    damaged = {pv: line.line for pv, line in history.lines.items() if not line.intact}
    return Side(f"{run.id} ({at})", history.setpoints, {}, damaged), run


def _of_machine(run: RecordedRun) -> Side:
    """Read every PV that the run knows."""
    from ..control import Control, connect
    from ..core.settings import load
    from ..run.manifest import way_of

    backend = connect(way_of(run.manifest))
    control = Control(backend, load())
    try:
        found = control.updates(list(run.setpoints()))
    finally:
        control.close()
        backend.close()
    missing = {pv: update.message for pv, update in found.items() if isinstance(update, PvError)}
    return Side(NOW, {pv: u.plain for pv, u in found.items() if not isinstance(u, PvError)}, missing)


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give what the manifests say differently; who and when is never the same."""
    own = ("user", "host", "process")
    return [
        {"name": name, "left": one.get(name), "right": other.get(name)}
        for name in dict.fromkeys([*one, *other])
        if name not in own and one.get(name) != other.get(name)
    ]


def _cell(side: Side, pv: str) -> Any:
    return side.values.get(pv, side.missing.get(pv))


def _gap(left: Any, right: Any) -> float | None:
    if isinstance(left, bool) or not isinstance(left, int | float) or not isinstance(right, int | float):
        return None
    try:
        gap = right - left
        return gap if math.isfinite(gap) else None
    except OverflowError:  # more than any machine holds
        return None


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, list) or isinstance(right, list) or hasattr(left, "shape") or hasattr(right, "shape"):
        return str(left) == str(right)
    return bool(left == right)
