"""What gets installed: the files of the wheel, Badger's plugin root, and a pytest plugin that hides no coverage."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import badger_k2eg
from badger_k2eg import plugin_root
from badger_k2eg import plugins as module

CLONE = Path(__file__).resolve().parents[2]
PLUGIN_FOLDERS = ("interfaces", "environments")
PLUGIN_FILES = (".py", ".yaml", ".md")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a user gets it: built from the sdist, which shows that the sdist has everything in it."""
    for tool in ("build", "hatchling"):
        pytest.importorskip(tool, reason=f"pip install {tool} (it is in the extra `test`)")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(CLONE)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages that holds the unpacked wheel."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def _plugin_files(root: Path) -> set[str]:
    return {
        file.relative_to(root).as_posix()
        for folder in PLUGIN_FOLDERS
        for file in (root / folder).rglob("*")
        if file.suffix in PLUGIN_FILES and not any(part.startswith(".") for part in file.relative_to(root).parts)
    }


def test_the_wheel_installs_one_package_and_nothing_beside_it(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"badger_k2eg"}


def test_the_wheel_is_typed_licensed_and_free_of_tests(names: list[str]) -> None:
    assert "badger_k2eg/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "test_" in name or "/tests/" in name or name.endswith(".pyc")]


def test_the_wheel_holds_every_plugin_inside_the_package(installed: Path) -> None:
    inside = installed / "badger_k2eg" / "plugins"
    assert (inside / "__init__.py").is_file()
    assert _plugin_files(inside) == _plugin_files(CLONE)


def test_the_wheel_announces_the_command_and_the_pytest_plugin(installed: Path) -> None:
    (dist_info,) = installed.glob("*.dist-info")
    entry_points = (dist_info / "entry_points.txt").read_text()
    assert "badger-k2eg = badger_k2eg.cli:main" in entry_points
    assert "badger_k2eg = badger_k2eg.testing.plugin" in entry_points


def test_the_version_is_the_same_in_both_places() -> None:
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    assert project["version"] == badger_k2eg.__version__


def test_from_a_clone_the_plugin_root_is_the_clone() -> None:
    assert plugin_root() == CLONE
    assert (CLONE / "__init__.py").read_text() == "", "Badger writes this file if it is not there"


def test_from_a_wheel_the_plugin_root_lies_inside_the_package(installed: Path) -> None:
    if not _plugin_files(CLONE):
        pytest.skip("there is no plugin yet")
    code = "from badger_k2eg import plugin_root; print(plugin_root())"
    environment = {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=installed, env=environment)
    assert Path(done.stdout.strip()) == installed / "badger_k2eg" / "plugins", done.stderr


def test_the_copy_inside_the_package_wins_over_a_folder_around_it(tmp_path: Path) -> None:
    inside = tmp_path / "badger_k2eg" / "plugins"
    (inside / "interfaces").mkdir(parents=True)
    (tmp_path / "interfaces").mkdir()
    assert module._find(tmp_path / "badger_k2eg") == inside


def test_a_broken_installation_is_named(tmp_path: Path) -> None:
    # Somebody else's `interfaces` in site-packages is not taken for ours.
    (tmp_path / "interfaces").mkdir()
    with pytest.raises(FileNotFoundError, match="install it again"):
        module._find(tmp_path / "badger_k2eg")


@pytest.mark.skipif(
    importlib.util.find_spec("badger_k2eg.testing.plugin") is None, reason="there is no pytest plugin in this tree yet"
)
def test_the_pytest_plugin_brings_in_nothing_that_coverage_counts() -> None:
    """pytest imports the plugin before coverage starts: what it pulls in would be counted as never run."""
    code = "import sys, badger_k2eg.testing.plugin; print(*[m for m in sys.modules if m.startswith('badger_k2eg.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CLONE)
    assert done.returncode == 0, done.stderr
    assert not [name for name in done.stdout.split() if not name.startswith("badger_k2eg.testing")]
