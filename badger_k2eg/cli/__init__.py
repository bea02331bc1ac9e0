"""The command ``badger-k2eg``. Owns its commands' names and how a mistake ends; each command group has its own file.

A command's file is imported when it is called: ``badger-k2eg --help`` needs none of the optional parts. Exit codes: 0
done, 1 failed, 2 a mistake of the user's, 3 refused by a guard, 130 Ctrl-C, 143 SIGTERM. What was foreseen is one line
on stderr (one per PV where PVs failed), never a traceback.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import ControlError, SettingsError

FAILED, USAGE, REFUSED, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143

#: Command -> (module, what it does). The module has a click command of the same name, with _ for -.
_COMMANDS = {
    "demo": (".demo", "Tune a simulated machine by Badger, without its window."),
    "ioc": (".ioc", "Start an example IOC, and say how a client reaches it."),
    "plugin-root": (".plugins", "Print the folder to give to Badger as BADGER_PLUGIN_ROOT."),
    "run": (".run", "Run a routine file without Badger's window."),
}


class _Commands(click.Group):
    """Imports a command at its first use, and ends every foreseen error in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0], __name__)
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)  # noqa: S101 - the table above is ours
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_COMMANDS.items())])

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
        try:
            code = super().main(args, name, complete_var, False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(USAGE)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            where = context.command_path if context else name
            _end(f"{where}: {error.format_message().splitlines()[0]}", error.exit_code)
        except ControlError as error:
            # A wrong option, wherever it comes from, is the user's; all else is the machine's.
            _end(f"{name}: {error}", USAGE if isinstance(error, SettingsError) else FAILED)
        except OSError as error:
            # A file that is not there, a folder that cannot be made.
            _end(f"{name}: {error.filename or 'a file'}: {error.strerror or error}", USAGE)
        except (click.Abort, KeyboardInterrupt):
            _end(f"{name}: interrupted", INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def _end(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="badger-k2eg")
def main() -> None:
    """Badger over EPICS, through PVAccess, Channel Access or K2EG."""
