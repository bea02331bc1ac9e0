"""Output to the terminal: ``Console``, ``Text`` and the other parts of rich that commands use. Only this imports rich.

Output contains names, values and messages of a machine: none of it is taken for markup, an emoji's name or a control
code of the terminal, see ``printable``. Style is given beside the text, never in it. A text is one line.
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

#: Without a terminal, a table need not be folded.
_WIDTH = 240


class Text(rich.text.Text):
    """A text with a style, as ``rich.text.Text``; control codes in it are shown, not obeyed."""

    def __init__(self, text: object = "", style: str = "") -> None:
        """Take the text as it is."""
        super().__init__(printable(text), style)

    def append(self, text: Any, style: Any = None) -> Text:
        """Add a text, with a style of its own."""
        super().append(printable(text) if isinstance(text, str) else text, style)
        return self


class Console(rich.console.Console):
    """A printer of texts and tables, each line whole: the terminal folds it.

    :param stderr: print to standard error, as where standard output is for programs.
    :param quiet: print nothing.
    """

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        """Look at the terminal."""
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, stderr=stderr, quiet=quiet)
        if not self.is_terminal:
            self.width = _WIDTH

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """Make every text that is printed, in a cell or a title too, safe for the terminal."""
        return super().render_str(printable(text), **{**options, "emoji": False, "markup": False})


def say(*lines: object, err: bool = False) -> None:
    """Print lines without a style."""
    for line in lines:
        click.echo(printable(line), err=err)


def bar(console: Console, *more: ProgressColumn) -> Progress:
    """Return a progress bar: what is done, how many steps, the time, and further columns."""
    return Progress(_What(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), *more, console=console)


class _What(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.description)
