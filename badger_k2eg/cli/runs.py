"""``badger-k2eg runs``: recorded runs. Owns the names of its commands; each is in a file of its own."""

from __future__ import annotations

import click

from .lazy_group import Lazy

_COMMANDS = {
    "attach": (".runs_annotate", "Copy a file into the journal, as one of a run's."),
    "diff": (".runs_diff", "Compare the setpoints of two runs, or of a run and the machine now."),
    "export": (".runs_export", "Write a run into one zip file: lines, tables, files, checksums."),
    "link": (".runs_annotate", "Say that a run continues another."),
    "list": (".runs_list", "List runs, the newest last."),
    "note": (".runs_annotate", "Say something of a run, in words."),
    "plot": (".runs_plot", "Draw a run as a picture."),
    "rename": (".runs_annotate", "Give a run a name to find it by."),
    "restore": (".runs_restore", "Put back what a run has set."),
    "show": (".runs_list", "Show a run: evaluations, baseline, the slowest PVs."),
    "tag": (".runs_annotate", "Give a run tags: texts, or numbers that can be searched by range."),
    "verify": (".runs_export", "Check a run in the journal, or an export, against its checksums."),
}


@click.command(cls=Lazy, table=_COMMANDS)
def runs() -> None:
    """List, compare, undo, export and annotate recorded runs."""
