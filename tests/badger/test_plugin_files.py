"""Mistakes in the files of an environment, each told in one line that names file and line."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from badger_k2eg.errors import SettingsError

pytestmark = pytest.mark.usefixtures("badger_config", "quiet")

GOOD = """\
from badger_k2eg.badger_app.environment import ControlEnvironment
from badger_k2eg.tuning import Condition, Knob
from badger_k2eg.tuning import Observable


class Environment(ControlEnvironment):
    name = "{name}"
    knobs = {{
        "q1": Knob("{{area}}:QUAD:1:BCTRL", readback="{{area}}:QUAD:1:BACT", tolerance=0.002),
    }}
    measures = {{"size": Observable("{{area}}:OTRS:1:XRMS", samples=3)}}
    conditions = (Condition("{{area}}:BEAM:PERMIT", equals="OK"),)

    area: str | None = "INJ"
"""
CONFIGS = "name: {name}\nversion: '1'\ninterface: [epics_pva]\n"


class Files:
    """Environments of a user's own, in the plugin root."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch

    def make(self, old: str = "", new: str = "", configs: str | None = CONFIGS) -> str:
        """Write one, with a piece of its program replaced; give its name."""
        import badger.factory

        name = f"mine_{uuid.uuid4().hex}"
        folder = self.root / "environments" / name
        folder.mkdir()
        program = GOOD.format(name=name)
        assert old in program
        (folder / "__init__.py").write_text(program.replace(old, new) if old else program)
        if configs is not None:
            (folder / "configs.yaml").write_text(configs.format(name=name))
        # As if it had been there when Badger looked.
        self.monkeypatch.setitem(badger.factory.BADGER_FACTORY["environment"], name, None)
        return name


@pytest.fixture
def files(plugin_root: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(plugin_root, monkeypatch)


def test_what_is_right_loads(files: Files) -> None:
    from badger_k2eg.badger_app.plugin_files import environment_class

    name = files.make()
    found, configs = environment_class(name)
    assert (found.name, configs["interface"]) == (name, ["epics_pva"])


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("tolerance=", "tolerence=", 9, "{area}:QUAD:1:BCTRL: there is no 'tolerence'; did you mean 'tolerance'?"),
        ("samples=", "sample=", 11, "Observable {area}:OTRS:1:XRMS: there is no 'sample'; did you mean 'samples'?"),
        ("equals=", "equal=", 12, "Condition {area}:BEAM:PERMIT: there is no 'equal'; did you mean 'equals'?"),
        ("measures =", "measure =", 6, "there is no 'measure'; did you mean 'measures'?"),
        ('"OK"),)', '"OK"))', 6, "conditions must be a tuple; with one element: conditions = (Condition(...),)"),
        ("area: str | None", "area", 6, "parameter area needs a type: area: str = 'INJ'"),
        ("import Condition, Knob", "import Condition", 9, "NameError: name 'Knob' is not defined"),
        ("badger_k2eg.tuning", "badger_k2eg.knob", 2, "ModuleNotFoundError: No module named 'badger_k2eg.knob'"),
        ("knobs = {", "knobs = (", 10, "does not match opening parenthesis"),
        ("tolerance=0.002", "bounds=(0, 1)", 9, "needs a tolerance"),
    ],
)
def test_a_mistake_in_the_program(files: Files, old: str, new: str, line: int, said: str) -> None:
    from badger_k2eg.badger_app.plugin_files import environment_class

    name = files.make(old, new)
    with pytest.raises(SettingsError) as caught:
        environment_class(name)
    file = files.root / "environments" / name / "__init__.py"
    assert str(caught.value).startswith(f"environment {name}: {file}, line {line}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_fit_each_other(files: Files) -> None:
    from badger_k2eg.badger_app.plugin_files import environment_class

    for name, said in (
        (files.make('name = "', 'name = "not_'), "its folder is called {name}; folder and name must be the same"),
        (files.make("class Environment", "class Linac"), "there is no class Environment in its __init__.py"),
        (files.make(configs=None), "configs.yaml: No such file or directory"),
        (files.make(configs="name: other\ninterface: [epics_pva]"), "configs.yaml: name is 'other', not the folder's"),
        (
            files.make(configs="name: {name}\ninterface: epics_pva"),
            r"configs.yaml: interface must be a list: \[epics_pva\]",
        ),
    ):
        with pytest.raises(SettingsError, match=f"^environment {name}: .*{said.format(name=name)}$"):
            environment_class(name)


def test_ones_own_plugin_comes_before_ours_of_the_same_name(
    plugin_root: Path, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    # The clone has one too, and is on the path. In a fresh process: here other tests have imported that one.
    done = run_python(
        "import sys; from pathlib import Path; from badger_k2eg.badger_app.session import open_badger\n"
        f"open_badger(Path({str(tmp_path)!r}), plugin_root=Path({str(plugin_root)!r}))\n"
        "from badger_k2eg.badger_app.plugin_files import environment_class\n"
        "found, _ = environment_class('pv_template'); print(sys.modules[found.__module__].__file__)"
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(plugin_root)
