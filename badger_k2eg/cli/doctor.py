"""``badger-k2eg doctor``: the state of a setup in one table. The checks themselves are ``doctor_checks``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from ..core.errors import PvNameError
from ..core.suggestions import did_you_mean
from . import FAILED
from .connection_options import assignments
from .console import Console, Table, Text
from .doctor_checks import Finding, Status, Subject, look

_MARKS = {Status.GOOD: ("✓", "green"), Status.NOTE: ("·", "yellow"), Status.BAD: ("✗", "bold red")}


@click.command()
@click.argument("pvs", nargs=-1, metavar="[PV]...")
@click.option("--environment", help="check all PVs of this environment")
@click.option(
    "--set",
    "parameters",
    multiple=True,
    callback=assignments,
    metavar="NAME=VALUE",
    help="a parameter of the environment; may be repeated",
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Badger's configuration file; by default the one that Badger uses",
)
@click.option("--json", "as_json", is_flag=True, help="write the findings as JSON")
def doctor(
    pvs: Sequence[str], environment: str | None, parameters: dict[str, str], config: Path | None, as_json: bool
) -> int:
    """Check Badger and its configuration, the journal and its disk, locks, K2EG, and PVs with their units and clocks.

    The table tells what is right, and what to do about the rest.

    Exit code: 0 all is well, 1 something is wrong, 2 a mistake in the command. Nothing is written and nothing is set.
    """
    subject = Subject(pvs, environment, parameters, config)
    _check_words(subject)
    try:
        findings = list(look(subject))
    except PvNameError as error:
        raise click.UsageError(str(error)) from None
    wrong = sum(finding.status == Status.BAD for finding in findings)
    if as_json:
        told = [{"what": each.what, "status": each.status, "text": each.text} for each in findings]
        click.echo(json.dumps({"good": wrong == 0, "findings": told}, indent=2))
    else:
        console = Console()
        console.print(_table(findings))
        console.print("all is well" if not wrong else f"{wrong} thing{'s' if wrong > 1 else ''} to put right")
    return FAILED if wrong else 0


def _check_words(subject: Subject) -> None:
    from ..badger_app.plugin_files import plugin_names

    if subject.parameters and subject.environment is None:
        raise click.UsageError("--set needs the --environment whose parameters it sets")
    names = plugin_names("environments", subject.plugin_root())
    if subject.environment is not None and subject.environment not in names:
        hint = did_you_mean(subject.environment, names, "environments")
        raise click.UsageError(f"there is no environment {subject.environment!r}; {hint}")
    if mistaken := [pv for pv in subject.pvs if pv in names]:
        raise click.UsageError(f"{mistaken[0]} is an environment, not a PV: --environment {mistaken[0]}")


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.status]
        table.add_row(Text(mark, style), Text(finding.what), Text(finding.text, style if mark == "✗" else ""))
    return table
