"""``badger-k2eg runs export``, ``verify``: a run as one file, and whether it is still whole."""

from __future__ import annotations

from pathlib import Path

import click

from ..core.errors import SettingsError
from ..journal import export as exports
from ..journal.naming import file_name
from . import journal_output as text
from .console import say


@click.command()
@click.argument("run_text", metavar="RUN")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="the file; by default RUN.zip here"
)
@click.option("--force", is_flag=True, help="even over a file that is there")
@text.journal_option
@text.json_option
def export(run_text: str, output: Path | None, force: bool, place: Path | None, as_json: bool) -> None:
    """Write a run into one zip file: its lines, tables (CSV), attached files, a manifest, checksums."""
    with text.opened(place) as journal:
        run = journal.run(run_text)
        file = output or Path(f"{file_name(run.id)}.zip")
        if file.exists() and not force:
            raise SettingsError(f"{file} is there already; --force writes over it, --output names another")
        exports.export(journal, run, file)
    size = file.stat().st_size
    if as_json:
        text.print_json({"run": run.id, "file": str(file), "bytes": size})
    else:
        say(f"run {run.id}: {file}, {size} bytes")


@click.command()
@click.argument("what", metavar="RUN|FILE.zip")
@text.journal_option
@text.json_option
def verify(what: str, place: Path | None, as_json: bool) -> int:
    """Check a run in the journal, or an export, against its checksums; exit code 1 when something is wrong."""
    if what.endswith(".zip"):
        checked, wrong = what, exports.verify_export(Path(what))
    else:
        with text.opened(place) as journal:
            run = journal.run(what)
            checked, wrong = f"run {run.id}", exports.verify_run(journal, run)
    if as_json:
        text.print_json({"checked": checked, "whole": not wrong, "wrong": wrong})
    else:
        for line in wrong:
            say(f"{checked}: {line}", err=True)
        if not wrong:
            say(f"{checked}: whole")
    return 1 if wrong else 0
