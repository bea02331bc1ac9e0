"""``Lazy``: a group of commands whose modules are imported when a command is called. Knows no command."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from ..core.suggestions import did_you_mean


class Lazy(click.Group):
    """A group that imports a command at its first use.

    :param table: command -> (module of this package, one line of help). The module has a click command of the same
        name, with _ in place of -, and with a _ at the end where Python has another use for the name.
    """

    def __init__(self, *arguments: Any, table: Mapping[str, tuple[str, str]], **options: Any) -> None:
        """Import nothing yet."""
        super().__init__(*arguments, **options)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*self._table, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing its module."""
        if cmd_name not in self._table:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(self._table[cmd_name][0], __package__)
        name = cmd_name.replace("-", "_")
        command = getattr(module, name, None) or getattr(module, f"{name}_")
        assert isinstance(command, click.Command)  # noqa: S101 - the table is ours
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the closest command for an unknown one."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            raise click.UsageError(f"No such command {args[0]!r}; {did_you_mean(args[0], names, 'commands')}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        told = {name: command.get_short_help_str(limit=120) for name, command in self.commands.items()}
        told.update((name, text) for name, (_, text) in self._table.items())
        with formatter.section("Commands"):
            formatter.write_dl(sorted(told.items()))
