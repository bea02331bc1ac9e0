"""The one way to the terminal: ``Console``, ``Text`` and what else of rich the commands use. The only importer of rich.

What is printed holds names, values and messages of a machine: nothing in it is markup, an emoji's name or a code that
the terminal obeys, see ``printable``. Style is said beside the text, never in it. A text is one line.
"""

from __future__ import annotations

from typing import Any

import click
import rich.console
import rich.text
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeElapsedColumn
from rich.table import Table

from ..core.printable import printable

__all__ = ["Console", "Progress", "ProgressColumn", "Table", "Task", "Text", "bar", "say"]

#: Without a terminal there is nobody to fold a table for.
_WIDTH = 240


class Text(rich.text.Text):
    """A text with a style, as ``rich.text.Text``; what it holds is shown and not obeyed."""

    def __init__(self, text: object = "", style: str = "") -> None:
        """Take the text as it is."""
        super().__init__(printable(text), style)

    def append(self, text: Any, style: Any = None) -> Text:
        """Add a text, with a style of its own."""
        super().append(printable(text) if isinstance(text, str) else text, style)
        return self


class Console(rich.console.Console):
    """Prints texts and tables, each line whole: the terminal folds it.

    :param stderr: on standard error, as where standard output is for machines.
    :param quiet: print nothing.
    """

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        """Look at the terminal."""
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, stderr=stderr, quiet=quiet)
        if not self.is_terminal:
            self.width = _WIDTH

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """Make of any text that comes to be printed, a cell or a title too, what the terminal does not obey."""
        return super().render_str(printable(text), **{**options, "emoji": False, "markup": False})


def say(*lines: object, err: bool = False) -> None:
    """Print lines without a style."""
    for line in lines:
        click.echo(printable(line), err=err)


def bar(console: Console, *more: ProgressColumn) -> Progress:
    """Give a bar of steps that are done: what they are, how many, the time, and columns of one's own."""
    return Progress(_What(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), *more, console=console)


class _What(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.description)
