"""``Lazy``: a group of commands, each imported when it is called. Knows no command."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from ..core.suggestions import did_you_mean


class Lazy(click.Group):
    """Imports a command at its first use.

    :param table: command -> (module of this package, what it does). The module has a click command of the same name,
        with _ for -, and a _ behind a name that Python has a use for.
    """

    def __init__(self, *arguments: Any, table: Mapping[str, tuple[str, str]], **options: Any) -> None:
        """Import nothing yet."""
        super().__init__(*arguments, **options)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name them all."""
        return sorted(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the one that is called."""
        if cmd_name not in self._table:
            return None
        module = importlib.import_module(self._table[cmd_name][0], __package__)
        name = cmd_name.replace("-", "_")
        command = getattr(module, name, None) or getattr(module, f"{name}_")
        assert isinstance(command, click.Command)  # noqa: S101 - the table is ours
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say of a word that is none which was meant."""
        if args and args[0] not in self._table and not args[0].startswith("-"):
            hint = did_you_mean(args[0], sorted(self._table), "commands")
            raise click.UsageError(f"No such command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without an import."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(self._table.items())])
