"""The command ``badger-k2eg``: the names of its commands, and how an error ends one.

The module of a command is imported when the command is called: ``badger-k2eg --help`` needs no optional package. Exit
codes: 0 done, 1 failed, 2 a mistake of the user, 3 refused by a guard, 130 Ctrl-C, 143 SIGTERM. An expected error is
one line on stderr (one for each PV where PVs failed), never a traceback.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from .. import __version__
from ..core.errors import CallCancelled, ControlError, NoSuchRecord, ReadError, SetError, SettingsError
from ..core.printable import PrintableFormatter, printable, printable_lines
from .lazy_group import Lazy

FAILED, USAGE, REFUSED, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143

#: See ``Lazy``.
_COMMANDS = {
    "demo": (".demo", "Tune a simulated machine with Badger, without its window."),
    "doctor": (".doctor", "Check Badger, its window, its configuration and PVs; tell what is wrong and what to do."),
    "gateway": (".gateway", "Serve PVs to K2EG clients on a Kafka broker."),
    "get": (".get_put", "Read PVs, directly or through K2EG."),
    "gui": (".gui", "Open Badger's own window with the plugins of badger-k2eg."),
    "ioc": (".ioc", "Start an example IOC, and show how a client reaches it."),
    "monitor": (".get_put", "Show PVs whenever they change."),
    "plugin-root": (".gui", "Print the folder to give to Badger as BADGER_PLUGIN_ROOT."),
    "procedure": (".procedure", "Run a procedure: a scan, a degauss cycle, your own function."),
    "put": (".get_put", "Set PVs, with the same guards as in a run."),
    "rerun": (".run", "Run the routine of a recorded run again."),
    "run": (".run", "Run a routine file without Badger's window."),
    "snapshot": (".get_put", "Read PVs at one instant."),
    "unlock": (".get_put", "Show who has locked PVs; remove locks by force."),
}

_LOG = {
    "archive": (".log_admin", "Move closed segments to another directory; line numbers continue."),
    "browse": (".log_browse", "Page through the journal: search, jump from event to event."),
    "follow": (".log_query", "Print lines as they are written."),
    "mark": (".log_admin", "Mark the beginning or the end of an interval: a shot, a fault."),
    "query": (".log_query", "Print the lines that match the options."),
    "reindex": (".log_admin", "Rebuild the index from the segments."),
    "show": (".log_query", "Print a run, or everything about one of its evaluations."),
    "tui": (".log_browse", "Page through the journal in a full-screen view of the terminal (extra tui)."),
}

_RUNS = {
    "attach": (".runs_annotate", "Attach a copy of a file to a run."),
    "diff": (".runs_diff", "Compare the setpoints of two runs, or of a run and the machine now."),
    "export": (".runs_export", "Write a run into one zip file: lines, tables, files, checksums."),
    "link": (".runs_annotate", "Record that a run continues another."),
    "list": (".runs_list", "List runs, the newest last."),
    "note": (".runs_annotate", "Add a note to a run."),
    "plot": (".runs_export", "Draw a run as a picture."),
    "rename": (".runs_annotate", "Give a run a name to find it by."),
    "restore": (".runs_restore", "Put back what a run has set."),
    "show": (".runs_list", "Show a run: evaluations, baseline, the slowest PVs."),
    "tag": (".runs_annotate", "Tag a run with texts, or with numbers that can be searched by range."),
    "verify": (".runs_export", "Check a run in the journal, or an export, against its checksums."),
}


class _Commands(Lazy):
    """The group that reports every expected error in one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        name = prog_name or "badger-k2eg"
        if not standalone_mode:
            return super().main(args, name, complete_var, False, **extra)
        _prepare()
        try:
            code = super().main(args, name, complete_var, False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            _end(error.format_message(), USAGE)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            where = context.command_path if context else name
            first, _, _ = error.format_message().partition("\n")
            _end(f"{where}: {first}", error.exit_code)
        except ControlError as error:
            # A wrong option or name, wherever it comes from, is the user's mistake; all else failed on the machine.
            code = USAGE if isinstance(error, SettingsError | NoSuchRecord) else FAILED
            # Only these have a text of several lines, one for each PV.
            has_lines = isinstance(error, ReadError | SetError | CallCancelled)
            _end(f"{name}: {error if has_lines else printable(error)}", code)
        except OSError as error:
            # A file that does not exist, a folder that cannot be created.
            _end(printable(f"{name}: {error.filename or 'a file'}: {error.strerror or error}"), USAGE)
        except (click.Abort, KeyboardInterrupt):
            _end(f"{name}: interrupted", INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def _prepare() -> None:
    """Make output safe: escape what the terminal cannot show, and control codes that it would obey."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())


def _end(message: str, code: int) -> NoReturn:
    click.echo(printable_lines(message), err=True)
    sys.exit(code)


@click.command(cls=_Commands, table=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="badger-k2eg")
def main() -> None:
    """Badger over EPICS, through PVAccess, Channel Access or K2EG."""


@main.command(cls=Lazy, table=_LOG)
def log() -> None:
    """Read the journal: what was done to the machine, line by line."""


@main.command(cls=Lazy, table=_RUNS)
def runs() -> None:
    """List, compare, undo, export and annotate recorded runs."""
