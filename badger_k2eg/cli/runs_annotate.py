"""``badger-k2eg runs attach``, ``tag``, ``note``, ``rename``, ``link``: annotations of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..core.errors import SettingsError
from ..journal import annotate
from . import journal_output as text
from .console import say


def _answer(words: str, as_json: bool, **found: Any) -> None:
    if as_json:
        text.print_json(found)
    else:
        say(words)


@click.command()
@click.argument("run_text", metavar="RUN")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@text.journal_option
@text.json_option
def attach(run_text: str, file: Path, place: Path | None, as_json: bool) -> None:
    """Attach a copy of a file to a run."""
    with text.opened(place) as journal:
        run = journal.run(run_text)
        copy = annotate.attach(journal, run, file)
    _answer(f"run {run.id} has the file {copy}", as_json, run=run.id, file=str(copy))


@click.command()
@click.argument("run_text", metavar="RUN")
@click.argument("words", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--remove", multiple=True, metavar="NAME", help="remove a tag; may be repeated")
@text.journal_option
@text.json_option
def tag(run_text: str, words: tuple[str, ...], remove: tuple[str, ...], place: Path | None, as_json: bool) -> None:
    """Tag a run (charge=0.25 is a number, operator=Ada a text), or show its tags."""
    pairs = [word.partition("=") for word in words]
    for word, (name, equals, value) in zip(words, pairs, strict=True):
        if not (equals and name.strip() and value.strip()):
            raise click.UsageError(f"{word!r} is not NAME=VALUE")
        if set(name) & set("<>"):
            raise click.UsageError(f"{name!r}: the name of a tag cannot contain < or >")
    with text.opened(place) as journal:
        run = journal.run(run_text)
        for name in remove:
            annotate.tag(journal, run, name, None)
        for name, _, value in pairs:
            annotate.tag(journal, run, name.strip(), annotate.tag_value(value.strip()))
        tags = journal.run(run.id).tags
    shown = ", ".join(f"{name}={text.value_text(value)}" for name, value in tags.items())
    _answer(f"run {run.id} has {shown or 'no tag'}", as_json, run=run.id, tags=tags)


@click.command()
@click.argument("run_text", metavar="RUN")
@click.argument("words", metavar="TEXT")
@text.journal_option
@text.json_option
def note(run_text: str, words: str, place: Path | None, as_json: bool) -> None:
    """Add a note to a run."""
    if not words.strip():
        raise click.UsageError("the note is empty")
    with text.opened(place) as journal:
        run = journal.run(run_text)
        annotate.note(journal, run, words)
    _answer(f"run {run.id} has the note", as_json, run=run.id, note=words)


@click.command()
@click.argument("run_text", metavar="RUN")
@click.argument("name")
@text.journal_option
@text.json_option
def rename(run_text: str, name: str, place: Path | None, as_json: bool) -> None:
    """Give a run a name to find it by; its id stays the same."""
    with text.opened(place) as journal:
        run = journal.run(run_text)
        if name == "last" or any(other.id.startswith(name) for other in journal.runs()):
            raise SettingsError(f"{name!r} could be mistaken for the id of a run")
        annotate.rename(journal, run, name)
    _answer(f"run {run.id} is now {name}", as_json, run=run.id, name=name)


@click.command()
@click.argument("run_text", metavar="RUN")
@click.argument("parent_text", metavar="PARENT")
@text.journal_option
@text.json_option
def link(run_text: str, parent_text: str, place: Path | None, as_json: bool) -> None:
    """Record that a run continues another."""
    with text.opened(place) as journal:
        run, parent = journal.run(run_text), journal.run(parent_text)
        annotate.link(journal, run, parent)
    _answer(f"run {run.id} continues {parent.id}", as_json, run=run.id, parent=parent.id)
