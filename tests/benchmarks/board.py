"""The figures of a run: what was measured against what, and whether a target was met. Prints one table, writes JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".bench"
PACKAGES = (
    *("badger-k2eg", "p4p", "pvxslibs", "epicscorelibs", "numpy", "pydantic", "badger-opt", "softioc"),
    *("confluent-kafka", "msgpack"),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    :ivar ours: the median of what is measured, in ``unit``.
    :ivar theirs: the median of what it is compared with; None where it stands for itself.
    :ivar ratio: the median of the ratios round by round: both sides of one had the same machine.
    :ivar target: the most that ``ratio`` may be, or ``ours`` where there is no ratio; None reports only.
    :ivar samples: rounds, or evaluations.
    """

    group: str
    what: str
    ours: float
    unit: str
    against: str = ""
    theirs: float | None = None
    ratio: float | None = None
    target: float | None = None
    samples: int = 1
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def judged(self) -> float:
        """What the target is about."""
        return self.ours if self.ratio is None else self.ratio

    @property
    def missed(self) -> bool:
        """Whether there is a target and it is not reached."""
        return self.target is not None and not self.judged <= self.target

    @property
    def verdict(self) -> str:
        """MISSED with the number, met, or nothing to say."""
        if self.target is None:
            return ""
        return f"MISSED: {self.judged:.4g}" if self.missed else "met"

    def cells(self) -> Iterator[str]:
        """Give the cells of its line."""
        yield self.what
        yield _with_unit(self.ours, self.unit)
        yield self.against
        yield "" if self.theirs is None else _with_unit(self.theirs, self.unit)
        yield "" if self.ratio is None else f"{self.ratio:.3f}"
        target_unit = "" if self.ratio is not None else f" {self.unit}"
        yield "" if self.target is None else f"{self.target:g}{target_unit}"
        yield self.verdict


class Board:
    """Collects the figures of one run."""

    def __init__(self, *, short: bool, strict: bool) -> None:
        self.short = short
        # A short run measures too little to judge by.
        self.strict = strict and not short
        self.figures: list[Figure] = []
        #: What a reader has to know besides, in whole sentences.
        self.notes: list[str] = []
        self._load_before = os.getloadavg()

    def add(self, figure: Figure) -> None:
        """Take one figure."""
        self.figures.append(figure)

    def show(self, console: Console) -> None:
        """Print the table, and the missed targets once more below it, where nobody overlooks them."""
        title = "badger-k2eg, side by side on one IOC" + (" (short run: for reading only)" if self.short else "")
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
        for heading, right in {
            "": False, "ours": True, "against": False, "theirs": True, "ratio": True, "target": True, "verdict": False,
        }.items():  # fmt: skip
            table.add_column(heading, justify="right" if right else "left", no_wrap=right)
        group = None
        for figure in self.figures:
            if figure.group != group:
                if group is not None:
                    table.add_section()
                group = figure.group
                table.add_row(f"[bold]{group}[/bold]")
            table.add_row(*figure.cells(), style="red" if figure.missed else None)
        console.print()
        console.print(table)
        for note in self.notes:
            console.print(note, style="bold")
        for figure in self.missed:
            console.print(
                f"MISSED: {figure.group}, {figure.what}: {figure.judged:.4g}, target {figure.target:g}",
                style="bold red",
            )
        if not self.missed:
            console.print("every target is met" if any(f.target is not None for f in self.figures) else "no targets")

    @property
    def missed(self) -> list[Figure]:
        """Those whose target is not reached."""
        return [figure for figure in self.figures if figure.missed]

    def save(self) -> Path:
        """Write everything as JSON, also as ``latest.json``; give the file."""
        FOLDER.mkdir(exist_ok=True)
        content = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "short": self.short,
            "commit": _commit(),
            "machine": {
                "system": platform.platform(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "load_before": self._load_before,
                "load_after": os.getloadavg(),
            },
            "packages": {name: _version(name) for name in PACKAGES},
            "notes": self.notes,
            "missed": [f"{figure.group}, {figure.what}" for figure in self.missed],
            "figures": [asdict(figure) | {"missed": figure.missed} for figure in self.figures],
        }
        text = json.dumps(content, indent=1)
        file = FOLDER / time.strftime("%Y%m%d-%H%M%S.json")
        file.write_text(text)
        (FOLDER / "latest.json").write_text(text)
        return file


def is_full() -> bool:
    """Whether there is time for everything (``FULL=1``)."""
    return os.environ.get("FULL", "") not in ("", "0")


def _with_unit(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}".rstrip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Name the commit, with a + where the tree differs from it."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
