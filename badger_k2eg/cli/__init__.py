"""The command ``badger-k2eg``. Owns its commands' names and how a mistake ends; each command group has its own file.

A command's file is imported when it is called: ``badger-k2eg --help`` needs none of the optional parts. Exit codes: 0
done, 1 failed, 2 a mistake of the user's, 3 refused by a guard, 130 Ctrl-C, 143 SIGTERM. What was foreseen is one line
on stderr (one per PV where PVs failed), never a traceback.
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
    "demo": (".demo", "Tune a simulated machine by Badger, without its window."),
    "doctor": (".doctor", "Look at Badger, its window, its configuration and PVs: what is right, what to do."),
    "gateway": (".gateway", "Serve PVs to K2EG clients on a Kafka broker."),
    "get": (".get_put", "Read PVs, directly or through K2EG."),
    "gui": (".gui", "Open Badger's own window on our plugins."),
    "ioc": (".ioc", "Start an example IOC, and say how a client reaches it."),
    "log": (".log", "Look into the journal: what was done to the machine, line by line."),
    "monitor": (".get_put", "Show PVs whenever they change."),
    "plugin-root": (".plugins", "Print the folder to give to Badger as BADGER_PLUGIN_ROOT."),
    "procedure": (".procedure", "Run a procedure: a scan, a degauss cycle, a function of your own."),
    "put": (".get_put", "Set PVs, by the one write path with its guard."),
    "rerun": (".rerun", "Run the routine of a recorded run again."),
    "run": (".run", "Run a routine file without Badger's window."),
    "runs": (".runs", "List, compare, undo, export and annotate recorded runs."),
    "snapshot": (".get_put", "Read PVs at one instant."),
    "unlock": (".unlock", "Show who has locked PVs, and take locks away by force."),
}


class _Commands(Lazy):
    """Ends every foreseen error in one line."""

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
            # A wrong option or name, wherever it comes from, is the user's; all else is the machine's.
            code = USAGE if isinstance(error, SettingsError | NoSuchRecord) else FAILED
            # Of these alone a text has lines: one for each PV.
            has_lines = isinstance(error, ReadError | SetError | CallCancelled)
            _end(f"{name}: {error if has_lines else printable(error)}", code)
        except OSError as error:
            # A file that is not there, a folder that cannot be made.
            _end(printable(f"{name}: {error.filename or 'a file'}: {error.strerror or error}"), USAGE)
        except (click.Abort, KeyboardInterrupt):
            _end(f"{name}: interrupted", INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def _prepare() -> None:
    """Let nothing end or disguise a command by what it holds: what a terminal cannot show, what it would obey."""
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
