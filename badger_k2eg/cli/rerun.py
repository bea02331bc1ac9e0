"""``badger-k2eg rerun RUN``: run the routine of a recorded run again; the options are those of ``run``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from ..journal import Journal
from ..journal.naming import file_name
from .console import say
from .run import run


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("recorded", metavar="RUN")
@click.option(
    "--archive",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Badger's archive, for a run of its window",
)
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="write the routine here, and run nothing")
@click.pass_context
def rerun(context: click.Context, recorded: str, archive: Path | None, save: Path | None) -> int:
    """Run the routine of a recorded run again: RUN is its id, the beginning of one, its name, or last.

    All options of `badger-k2eg run` hold too, as `--read-only` and `--set interface_name=replay`.
    """
    from ..badger_app.rerun import routine_of

    journal = Journal.open()
    try:
        found = journal.run(recorded)
        text = routine_of(found, archive)
    finally:
        journal.close()
    if save is not None:
        save.write_text(text, encoding="utf-8")
        say(f"the routine of run {found.id} is in {save}")
        return 0
    with tempfile.TemporaryDirectory(prefix="badger-k2eg-") as folder:
        file = Path(folder) / f"rerun-{file_name(found.id)}.yaml"
        file.write_text(text, encoding="utf-8")
        again = run.make_context(context.command_path, [os.fspath(file), *context.args], parent=context.parent)
        with again:
            code = run.invoke(again)
    return int(code or 0)
