"""``badger-k2eg run``: exit codes, what is said and written."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from interfaces.epics_pva import Interface

from .routines import CLONE, SETPOINTS, START, archives, command, rows, written

pytestmark = pytest.mark.usefixtures("badger_config", "quiet")
SIGNALS = [
    (signal.SIGTERM, "SIGTERM", 143),
    pytest.param(signal.SIGINT, "Ctrl-C", 130, marks=pytest.mark.extended),
]


@pytest.mark.slow
def test_a_run_that_is_done(machine: Interface, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    routine = CLONE / "examples" / "routines" / "neldermead.yaml"
    plot = tmp_path / "plots" / "run.png"
    ended = ("--evaluations", "30", "--target", "0.6", "--go-to-best")
    done = command("run", routine, *ended, "--output", "out", "--plot", plot, folder=tmp_path, TTY_COMPATIBLE="1")
    assert (done.returncode, done.stderr) == (0, "")
    said = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", done.stdout)
    assert "neldermead on pv_template through epics_pva" in said
    assert "ends after 30 evaluations or when f is 0.6 or less" in said
    lines = re.findall(r"^ *(\d+)/30  x0 (\S+)  x1 (\S+)  f (\S+)(  best)?", said, re.MULTILINE)
    assert [int(line[0]) for line in lines] == list(range(1, len(lines) + 1))
    assert lines[0][1:3] == ("-0.6", "0.8")
    assert 3 < len(lines) < 30
    sizes = [float(line[3]) for line in lines]
    assert sizes[-1] <= 0.6 < min(sizes[:-1])
    assert [bool(line[4]) for line in lines] == [size == min(sizes[: i + 1]) for i, size in enumerate(sizes)]
    # The bar, with the best so far, and the table.
    assert re.search(rf"evaluations .*{len(lines)}/30 .*best f {sizes[-1]:g}", said)
    reached = re.search(r"target reached: f is (\S+)", said)
    assert reached is not None
    assert float(reached[1]) == pytest.approx(sizes[-1], rel=1e-3)
    table = {row[0]: row[1:] for row in re.findall(r"│ (\w+) +│ +(\S+) │ +(\S+) │ +(\S+) │", said)}
    assert table["x0"] == ("-0.5", lines[-1][1], lines[-1][1])
    assert float(table["f"][0]) == pytest.approx(1.59, abs=0.1)
    assert machine.get_value(SETPOINTS[0]) == pytest.approx(float(lines[-1][1]), rel=1e-3)

    png = plot.read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    assert 600 < width < 2000 and 400 < height < 2000 and len(png) > 15_000
    (archive,) = archives(tmp_path / "out")
    assert f"archive: {archive}" in said
    with archive.with_suffix(".pickle").open("rb") as file:
        assert len([entry for entry in pickle.load(file) if entry["action"] == "set_values"]) == len(lines) + 1
    monkeypatch.setattr("badger.archive.BADGER_ARCHIVE_ROOT", str(tmp_path / "out" / "archive"))
    from badger.archive import load_run

    loaded = load_run(archive.name)
    assert len(loaded.data) == len(lines)
    assert loaded.data["f"].min() == pytest.approx(sizes[-1], rel=1e-3)


@pytest.mark.slow
def test_read_only_moves_nothing_and_json_tells_all(machine: Interface, tmp_path: Path) -> None:
    # What Badger's own loading drops: the interface and its parameters.
    interface = {"name": "epics_pva", "params": {"read_only": True}}
    file = written(tmp_path, environment={"name": "pv_template", "read_only": "no"}, interface=interface)
    rehearsed = ("--json", "--set", "timeout=4", "--no-plot", "--target", "1e9", "--go-to-best")
    done = command("run", file, *rehearsed, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["read_only"] is True
    # The machine was at none of the points: none is the best, and no line or title says so.
    assert (outcome["best"], {each["was_set"] for each in outcome["evaluations"]}) == (None, {False})
    assert outcome["machine"] == "read-only: nothing was set on the machine"
    assert "best" not in done.stderr.replace("no point is the best one", "")
    assert re.search(r"^ 1/20  x0 -0.6 .*  not set$", done.stderr, re.MULTILINE)
    assert "by hand (read-only: nothing was set)" in done.stderr
    assert outcome["exit_code"] == 0
    assert (len(outcome["evaluations"]), outcome["ended"]) == (20, "20 evaluations done")
    assert "ends after 20 evaluations (nothing else was said)" in done.stderr
    assert "read-only: nothing is set" in done.stderr
    assert machine.get_values(SETPOINTS) == START
    assert outcome["end"]["x0"] == START[SETPOINTS[0]]
    assert outcome["plot"] is None
    (archive,) = archives(tmp_path / "badger-runs")
    assert str(archive) == outcome["archive"]
    assert yaml.safe_load(archive.read_text())["environment"]["timeout"] == "4"
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.extended
@pytest.mark.slow
def test_a_guard_that_refuses_is_code_3(machine: Interface, tmp_path: Path) -> None:
    file = written(tmp_path)
    limits = f"{SETPOINTS[0]}=-1..-0.2"
    done = command("run", file, "--quiet", folder=tmp_path, BADGER_K2EG_LIMITS=limits)
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("badger-k2eg run: evaluation 2 failed: ")
    assert SETPOINTS[0] in line and "own limits" in line
    assert [rows(archive) for archive in archives(tmp_path / "badger-runs")] == [1]
    assert machine.get_values(SETPOINTS) == dict(zip(SETPOINTS, (-0.6, 0.8), strict=True))


@pytest.mark.extended
@pytest.mark.slow
def test_an_evaluation_that_fails_is_code_1_and_the_machine_is_restored(
    machine: Interface, slow_steps: Path, tmp_path: Path
) -> None:
    file = written(tmp_path, environment={"name": "slow_steps"})
    words = ("--plugin-root", slow_steps, "--set", "fails_above=-0.1", "--restore", "--seconds", "30")
    done = command("run", file, *words, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "badger-k2eg run: evaluation 2 failed: RuntimeError: the cooling water is off"
    assert "the machine is where it was before" in done.stdout
    assert machine.get_values(SETPOINTS) == START
    assert [rows(archive) for archive in archives(tmp_path / "badger-runs")] == [1]
    assert len(list((tmp_path / "badger-runs").glob("slow_steps-*.png"))) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("number", "name", "code"), SIGNALS)
def test_a_signal_in_mid_evaluation_ends_the_run(
    number: signal.Signals, name: str, code: int, machine: Interface, slow_steps: Path, tmp_path: Path
) -> None:
    file = written(tmp_path, environment={"name": "slow_steps", "pause": 1.0})
    words = ["run", str(file), "--plugin-root", str(slow_steps), "--evaluations", "50"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "badger_k2eg.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    with process:
        try:
            assert process.stdout is not None
            while not process.stdout.readline().startswith(" 1/50"):
                assert process.poll() is None
            # In the second step, while it sleeps; and once more, as the impatient do.
            for _ in range(2):
                time.sleep(0.3)
                process.send_signal(number)
            output, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, error) == (code, "")
    assert f"stopped by {name}" in output
    # The environment's own sleep is not ours to end; what it sets after it is refused, and nothing else is begun.
    assert machine.get_values(SETPOINTS) == dict(zip(SETPOINTS, (-0.6, 0.8), strict=True))
    assert [rows(archive) for archive in archives(tmp_path / "badger-runs")] == [1]
    assert re.search(r"^record: \d+-\d+-\w+, in /", output, re.MULTILINE)
    assert "│ x0 │" in output
    assert len(list((tmp_path / "badger-runs").glob("*.png"))) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.yaml",), "badger-k2eg run: Invalid value for 'ROUTINE': File 'nowhere.yaml' does not exist."),
        (("list.yaml",), "badger-k2eg: list.yaml: not a routine file"),
        (("broken.yaml",), "badger-k2eg: broken.yaml: not a YAML file: "),
        (("list.yaml", "--set", "x0"), "badger-k2eg run: Invalid value for '--set': 'x0' is not NAME=VALUE"),
        (("list.yaml", "--plot", "x.txt"), "badger-k2eg run: Invalid value for '--plot': x.txt does not end in .png"),
        (("list.yaml", "--go-to-best", "--restore"), "badger-k2eg run: --go-to-best and --restore exclude each other"),
        (("routine.yaml", "--plugin-root", "empty"), "badger-k2eg: plugin root empty: there is no folder interfaces/"),
        (("list.yaml", "--evaluations", "0"), "badger-k2eg run: Invalid value for '--evaluations': 0 is not in"),
    ],
)
def test_a_mistake_in_the_command_is_code_2(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from badger_k2eg.cli import main

    with contextlib.chdir(tmp_path):
        (tmp_path / "list.yaml").write_text("- 1\n")
        (tmp_path / "broken.yaml").write_text("name: [\n")
        (tmp_path / "empty").mkdir()
        written(tmp_path)
        result = CliRunner().invoke(main, ["run", *words], prog_name="badger-k2eg")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(said)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_mistake_in_the_file_is_code_2_and_leaves_no_folder(tmp_path: Path) -> None:
    file = written(tmp_path, vocs={"variables": {"x0": [2, -2]}, "objectives": {"f": "MINIMIZE"}})
    done = command("run", file, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == f"badger-k2eg: {file}: vocs: variables: x0: bounds reversed: 2 is above -2"
    assert [path.name for path in tmp_path.iterdir()] == ["routine.yaml"]


@pytest.mark.slow
def test_a_wrong_option_around_it_is_told_once_and_before_badger_loads(tmp_path: Path) -> None:
    done = command("run", written(tmp_path), folder=tmp_path, BADGER_K2EG_REDONLY="yes")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("badger-k2eg: environment variable BADGER_K2EG_REDONLY")
    assert [path.name for path in tmp_path.iterdir()] == ["routine.yaml"]


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("number", "name", "code"), SIGNALS)
def test_a_signal_while_badger_loads_ends_it_in_one_line(
    number: signal.Signals, name: str, code: int, plugin_root: Path, tmp_path: Path
) -> None:
    # A plugin root of its own: it would hold up whoever loads its environment.
    root, loading = tmp_path / "root", tmp_path / "loading"
    shutil.copytree(plugin_root / "interfaces", root / "interfaces")
    folder = root / "environments" / "pv_template"
    folder.mkdir(parents=True)
    (folder / "configs.yaml").write_text("name: pv_template\ninterface: [epics_pva]\n")
    # It catches everything, as libraries do while they are imported.
    (folder / "__init__.py").write_text(
        f"import pathlib, time\npathlib.Path({str(loading)!r}).touch()\n"
        "try:\n    time.sleep(50)\nexcept BaseException:\n    time.sleep(50)\n"
    )
    words = ["run", str(written(tmp_path)), "--plugin-root", str(root)]
    process = subprocess.Popen(
        [sys.executable, "-m", "badger_k2eg.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    with process:
        try:
            while not loading.exists():
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(number)
            output, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, output) == (code, "")
    assert error == f"badger-k2eg run: stopped by {name}, before anything was set\n"
    assert not (tmp_path / "badger-runs").exists()
