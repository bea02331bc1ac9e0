"""What a terminal would obey is written out; everything else is as it is. And nothing in the package goes around it."""

from __future__ import annotations

import json
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import badger_k2eg
from badger_k2eg import cli
from badger_k2eg.cli.console import Console, Table, Text, bar
from badger_k2eg.cli.run_report import line
from badger_k2eg.core.printable import PrintableFormatter, finite, json_text, printable, printable_lines
from badger_k2eg.errors import PvError, PvRefused

#: What a terminal, markup, a format, HTML or a formula would make something else of: as it is, and as it is to be seen.
EATEN = {
    "[/b]": "[/b]",
    "[red]x[/red]": "[red]x[/red]",
    "[/data/x]": "[/data/x]",
    "[link=http://x]y": "[link=http://x]y",
    ":smile:": ":smile:",
    "T38PG:FREE": "T38PG:FREE",
    "X:FREE:Y": "X:FREE:Y",
    "{x}": "{x}",
    "%s": "%s",
    "$x_1^2$": "$x_1^2$",
    "<b>": "<b>",
    "&amp;": "&amp;",
    "#": "#",
    r"a\b\[c": r"a\b\[c",
    "中文 µm 😀": "中文 µm 😀",
    "\x1b[31mred": r"\x1b[31mred",
    "\x9b31m": r"\x9b31m",
    "a\nb": r"a\nb",
    "a\rb": r"a\rb",
    "a\tb": r"a\tb",
    "\x07": r"\x07",
    "\x7f": r"\x7f",
    "\u202e": r"\u202e",
    "a\u2028b": r"a\u2028b",
    "\udcff": r"\udcff",
}


@pytest.mark.parametrize(("text", "seen"), EATEN.items())
def test_every_way_to_the_terminal_shows_it(text: str, seen: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(text) == printable(seen) == seen
    out = Console()
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    table.add_row(Text(text, "bold"))
    for what in (text, Text(text).append(text, "bold"), table):
        out.print(what)
    out.print(text, style="bold")
    shown = capsys.readouterr().out
    assert shown.count(seen) == 9
    assert printable_lines(shown) == shown


@pytest.mark.parametrize(("text", "seen"), EATEN.items())
def test_a_bar_a_log_line_and_an_error_show_it(text: str, seen: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = Console()
    progress = bar(out)
    progress.add_task(text, total=1)
    out.print(progress.get_renderable())
    assert seen in capsys.readouterr().out
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "%s moved", (text,), None)
    assert PrintableFormatter().format(record) == f"{seen} moved"
    assert str(PvError(text, text)) == str(PvRefused(text, text)) == f"{seen}: {seen}"
    assert PvError(text, text).message == text


def test_the_traceback_of_a_log_line_has_lines_of_its_own() -> None:
    try:
        raise ValueError("\x1b[31m")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "a\nb", (), (ValueError, error, error.__traceback__))
    told = PrintableFormatter().format(record).splitlines()
    assert told[0] == r"a\nb" and told[1].startswith("Traceback") and told[-1] == r"ValueError: \x1b[31m"


@pytest.mark.parametrize("text", EATEN)
def test_json_is_exact_and_nothing_in_it_is_obeyed(text: str) -> None:
    for indent in (None, 1):
        told = json_text({text: [text, 1.5]}, indent=indent)
        assert json.loads(told) == {text: [text, 1.5]}
        assert printable_lines(told) == told
        told.encode()


def test_a_value_as_json_has_it() -> None:
    nan, infinite = float("nan"), float("inf")
    held = {"a": np.array([1.0, nan]), "b": [np.float64(infinite), (2, "x")], "c": -infinite, "d": 1.5}
    assert finite(held) == {"a": [1.0, "nan"], "b": ["inf", [2, "x"]], "c": "-inf", "d": 1.5}
    assert json.loads(json.dumps(finite(held), allow_nan=False)) == finite(held)


def test_a_terminal_of_another_encoding_gets_what_it_can_show(tmp_path: Path) -> None:
    (file := tmp_path / "中\x1b.zip").write_bytes(b"")
    done = CliRunner(charset="latin-1").invoke(cli.main, ["runs", "verify", str(file)], prog_name="badger-k2eg")
    assert done.exit_code == 1
    assert r"\u4e2d\x1b.zip: is not an export of a run" in done.stderr


def test_a_mistake_is_told_in_one_line_that_is_shown_and_not_obeyed() -> None:
    done = CliRunner().invoke(cli.main, ["--a\r\x1b[31m"], prog_name="badger-k2eg")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1 and "\x1b" not in done.stderr and r"--a\r\x1b[31m" in done.stderr


def test_the_line_of_an_evaluation_and_a_plot_have_names_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from badger_k2eg.badger_app.evaluation import Evaluation
    from badger_k2eg.badger_app.plot import plot_run

    names = [*EATEN, "_hidden", r"$x_1^{ \frac"]
    made = [
        Evaluation(
            number=n,
            variables=dict.fromkeys(names, 0.5 * n),
            objectives={f"f{text}": 1.0 / n for text in names[-4:]},
            best=n == 2,
        )
        for n in (1, 2)
    ]
    Console().print(line(made[0], 20))
    shown = capsys.readouterr().out
    assert [text for text in map(printable, names) if f"{text} 0.5" not in shown] == []
    drawn: list[str] = []
    save = Figure.savefig

    def kept(figure: Figure, *args: Any, **options: Any) -> None:
        drawn.extend(each.get_text() for each in figure.findobj(lambda artist: hasattr(artist, "get_text")))
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    with warnings.catch_warnings():
        # Of glyphs that the font has not.
        warnings.simplefilter("ignore", UserWarning)
        plot_run(made, tmp_path / "x.png", title="$x_1^{", ranges=dict.fromkeys(names, (0.0, 1.0)))
    assert {"$x_1^{", *map(printable, names)} <= set(drawn)


def test_nothing_in_the_package_goes_around_the_console() -> None:
    """Rich itself is imported by the console alone: import-linter holds that."""
    package = Path(badger_k2eg.__file__).parent
    around = re.compile(
        r"markup=True|from_markup|emoji=True|rich\.print|click\.(echo|secho)\((?!(json\.dumps|json_text)\()"
    )
    allowed = {"cli/console.py", "cli/__init__.py"}
    found = [
        f"{path.relative_to(package)}:{number}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        if str(path.relative_to(package)) not in allowed
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if around.search(line)
    ]
    assert not found
