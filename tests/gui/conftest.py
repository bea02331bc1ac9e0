"""Badger's real window on a virtual display, in a process of its own, with a user at it (``driver``).

With PICTURES=FOLDER in the environment the screenshots are kept there: ``PICTURES=examples/gui``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from badger_k2eg.testing.processes import clean_environment
from examples.virtual_injector.part import VirtualInjector

CLONE = Path(__file__).resolve().parents[2]
PICTURES = os.environ.get("PICTURES")
PATIENCE = 240.0
_SCREEN = "1720x960x24"
_MARK = "BADGER_WINDOW_OF"
#: A window shows its folder: for a picture it has a name that means something.
_HOME_SHOWN = Path("/tmp/badger-home")

Command = Callable[..., str]


@pytest.fixture(scope="session")
def display() -> Iterator[str]:
    """A virtual display, as DISPLAY."""
    program = shutil.which("Xvfb")
    if program is None:
        pytest.skip("there is no Xvfb, the virtual display: apt install xvfb")
    number, writing = os.pipe()
    with subprocess.Popen(
        [program, "-displayfd", str(writing), "-screen", "0", _SCREEN, "-nolisten", "tcp"],
        pass_fds=[writing],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    ) as server:
        os.close(writing)
        try:
            with os.fdopen(number) as told:
                if not (text := told.readline().strip()):
                    raise RuntimeError(f"Xvfb ended with code {server.wait()}")
            yield f":{text}"
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def _qt(display: str) -> None:
    """Skip where Qt cannot open a window, with the name of the package that is missing."""
    from badger_k2eg.badger_app.qt_check import display_problem, qt_problem

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISPLAY", display)
        if problem := qt_problem() or display_problem():
            pytest.skip(problem)


@pytest.fixture
def injector() -> Iterator[VirtualInjector]:
    """The machine of the environment's own prefix, where the window alone reaches it."""
    with VirtualInjector("INJ") as machine:
        yield machine


def own_places(folder: Path) -> dict[str, str]:
    """Say where a window keeps its journal and its locks, and where a command finds them."""
    return {"BADGER_K2EG_JOURNAL_DIR": str(folder / "journal"), "BADGER_K2EG_LOCK_DIR": str(folder / "locks")}


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Gives a function that runs ``badger-k2eg WORD...`` on the journal of the window, and gives what it said."""

    def run(*words: str, client: Mapping[str, str]) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "badger_k2eg.cli", *words],
            capture_output=True,
            text=True,
            env=clean_environment({**own_places(tmp_path), **client}),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            timeout=150,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


class Notes:
    """What an act has written down."""

    def __init__(self, file: Path, said: str = "") -> None:
        #: The end of what the window and its children have printed.
        self.said = said
        self.lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def all(self, name: str) -> list[Any]:
        return [value for key, value in self.lines if key == name]

    def __getitem__(self, name: str) -> Any:
        return self.all(name)[-1]

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))


Window = Callable[..., Notes]


@pytest.fixture
def window(_qt: None, display: str, tmp_path: Path) -> Window:
    """Gives a function that opens the window, lets an act be done in it, and gives its notes.

    The window has ended by itself then, and has left no child.
    """

    def open_window(act: str, client: Mapping[str, str], *arguments: str, **options: Any) -> Notes:
        home = _HOME_SHOWN if PICTURES else tmp_path / "home"
        home.mkdir(exist_ok=True)
        shots = tmp_path / act
        shots.mkdir()
        mark = uuid.uuid4().hex
        environment = clean_environment({"DISPLAY": display, "HOME": str(home), _MARK: mark})
        for name in ("QT_QPA_PLATFORM", "XDG_CONFIG_HOME", *(n for n in environment if n.startswith("BADGER_K2EG_"))):
            environment.pop(name, None)
        environment |= {"XDG_RUNTIME_DIR": str(home), **own_places(tmp_path), **client}
        home.chmod(0o700)
        try:
            with (tmp_path / f"{act}.txt").open("w+b") as output:
                program = [sys.executable, str(CLONE / "tests/gui/driver.py")]
                code = _run([*program, act, str(shots), json.dumps(options), *arguments], environment, tmp_path, output)
                left = _children_of(mark)
                output.seek(0)
                said = output.read().decode(errors="replace")[-6000:]
                notes = Notes(shots / "notes.jsonl", said)
            assert "failed" not in notes, f"{notes.all('failed')} {notes.all('dialog')}\n{said}"
            assert code == 0, f"ended with {code}\n{said}"
            assert notes["done"] is True
            assert left == [], "the window has left children behind"
        finally:
            for process in _children_of(mark):
                process.kill()
            if PICTURES:
                _keep(shots)
                shutil.rmtree(home)
        return notes

    return open_window


def _keep(shots: Path) -> None:
    """Keep pictures: whole in the folder, and small beside the README of the environment that they show."""
    from PIL import Image

    assert PICTURES is not None
    for picture in shots.glob("*.png"):
        shown = {"stopped": "virtual_injector"}.get(picture.stem, picture.stem)
        if (folder := CLONE / "environments" / shown).is_dir():
            small = Image.open(picture).convert("RGB").resize((1150, 642), Image.Resampling.LANCZOS)
            small.quantize(256, Image.Quantize.MAXCOVERAGE).save(folder / "window.png", optimize=True)
        if picture.stem not in ("failed", "fel_linac", "pv_template"):
            shutil.copy(picture, CLONE / PICTURES / picture.name)


def _run(command: list[str], environment: Mapping[str, str], folder: Path, output: IO[bytes]) -> int | None:
    # To a file: children that were left behind would hold a pipe open.
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()
        process.wait()


def _children_of(mark: str) -> list[psutil.Process]:
    """Find the processes that a window has started, whatever became of their parent."""
    found = []
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        found = [process for process in psutil.process_iter() if _has(process, mark)]
        if not found:
            break
        time.sleep(0.1)
    return found


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
