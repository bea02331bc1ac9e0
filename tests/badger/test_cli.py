"""The command: the demo as a user sees it, and how mistakes end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from badger_k2eg import __version__, plugin_root
from tests.rig.pace import pace

from .routines import PATIENT


def command(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Variables of the test session would lead the demo's client astray; it must not need them either.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EPICS_")}
    return subprocess.run(
        [sys.executable, "-m", "badger_k2eg.cli", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**kept, **PATIENT, **environment},
        stdin=subprocess.DEVNULL,
        timeout=150,
    )


@pytest.mark.extended
@pytest.mark.slow
def test_the_demo_tunes_a_real_ioc_by_two_ways_and_leaves_nothing_behind(tmp_path: Path) -> None:
    # A site's own addresses must not be asked.
    nowhere = {"EPICS_PVA_NAME_SERVERS": "127.0.0.1:1", "EPICS_PVA_ADDR_LIST": "127.0.0.1:1"}
    done = command("demo", "--machine", "first", folder=tmp_path, **nowhere)
    assert done.returncode == 0, done.stdout + done.stderr
    direct, through = done.stdout.split("through a K2EG gateway and an embedded Kafka broker\n")
    assert direct.startswith("direct, over PVAccess\n")
    _check_tuned(direct)
    _check_tuned(through)
    # matplotlib leaves a folder in the latter, where a user's configuration would be.
    assert {path.name for path in tmp_path.iterdir()} == {"demo-output", "no-config"}
    output = tmp_path / "demo-output"
    assert {path.name for path in output.iterdir()} == {"demo.png", "demo_k2eg.png", "journal"}
    for plot in output.glob("*.png"):
        assert plot.read_bytes().startswith(b"\x89PNG")
    prefix = re.findall(r"an IOC serves (\w+):", direct)[0]
    assert not [each for each in psutil.process_iter(["cmdline"]) if prefix in " ".join(each.info["cmdline"] or [])]


def _check_tuned(said: str) -> None:
    evaluations = re.findall(r"^ ?(\d+)/20  x0 \S+  x1 \S+  f (\S+)", said, re.MULTILINE)
    assert [int(number) for number, _ in evaluations] == list(range(1, 21))
    (times,) = re.findall(r"is ([\d.]+) times smaller than before", said)
    assert float(times) > 3
    before, _, after = re.findall(r"f +│ +(\S+) │ +(\S+) │ +(\S+) │", said)[0]
    assert float(before) == pytest.approx(float(evaluations[0][1]), rel=0.05)
    assert float(after) == pytest.approx(min(float(size) for _, size in evaluations), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
@pytest.mark.parametrize(("interface", "parts"), [("epics_pva", 1), ("k2eg", 2)])
def test_a_demo_that_is_ended_takes_its_parts_along(
    interface: str, parts: int, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "badger_k2eg.cli", "demo", "--machine", "first", "--interface", interface],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **PATIENT, "TMPDIR": str(tmp_path)},
    )
    with process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # the way
            assert "an IOC serves" in process.stdout.readline()
            # IOC and gateway, and what they have started.
            children = psutil.Process(process.pid).children()
            below = [each for child in children for each in child.children(recursive=True)]
            process.send_signal(number)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert len(children) == parts
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert psutil.wait_procs([*children, *below], timeout=5)[1] == []
    if number == signal.SIGINT:
        assert error.strip() == "badger-k2eg: interrupted"
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("demo", "--interface", "pigeon"), "badger-k2eg demo: there is no interface 'pigeon'; choices: epics_pva"),
        (("demo", "--elephants"), "badger-k2eg demo: No such option"),
        (("dmeo",), "badger-k2eg: No such command 'dmeo'; did you mean 'demo'?"),
        (("rnu",), "badger-k2eg: No such command 'rnu'; did you mean 'run'?"),
        (("plugin-root", "x"), "badger-k2eg plugin-root: Got unexpected extra argument"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = command(*words, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_variable_ends_the_demo_before_it_moves_anything(tmp_path: Path) -> None:
    done = command("demo", "--machine", "first", folder=tmp_path, BADGER_K2EG_REDONLY="yes")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("badger-k2eg: environment variable BADGER_K2EG_REDONLY")
    assert "Traceback" not in done.stderr
    assert "20/20" not in done.stdout


def test_an_ioc_that_does_not_start_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "softioc").mkdir()
    (tmp_path / "softioc" / "__init__.py").write_text("raise RuntimeError('no IOC today')\n")
    done = command("demo", "--machine", "first", folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "badger-k2eg: the demo's IOC ended at once; the last line it printed: RuntimeError: no IOC today"
    )


def test_help_version_and_plugin_root_are_quick(tmp_path: Path) -> None:
    began = time.monotonic()
    assert command("--version", folder=tmp_path).stdout.strip() == f"badger-k2eg, version {__version__}"
    assert "demo" in command("--help", folder=tmp_path).stdout
    assert command("plugin-root", folder=tmp_path).stdout.strip() == str(plugin_root())
    assert time.monotonic() - began < 6 * pace()


@pytest.mark.parametrize("module", ["badger_k2eg", "badger_k2eg.cli"])
def test_it_runs_as_a_module_too(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, timeout=150)
    assert (done.stdout, done.stderr) == (f"badger-k2eg, version {__version__}\n", "")


@pytest.mark.parametrize("words", [["--help"], ["log", "--help"], ["runs", "--help"]], ids=" ".join)
def test_help_imports_no_command(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from badger_k2eg.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(*sorted(n for n in sys.modules if n.startswith('badger_k2eg.cli')), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=150)
    assert done.stderr.split() == ["badger_k2eg.cli", "badger_k2eg.cli.lazy_group"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    routine = Path(__file__).parents[2] / "examples" / "routines" / "neldermead.yaml"
    done = command("run", str(routine), "--output", "/proc/badger", folder=tmp_path)
    assert done.returncode == 2
    assert "/proc/badger" in done.stderr
    assert "Traceback" not in done.stderr
