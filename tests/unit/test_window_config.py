"""The configuration of Badger's window: written where there is none, never changed, and mistakes in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from badger_k2eg import plugin_root
from badger_k2eg.badger_app import window_config
from badger_k2eg.errors import SettingsError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def written(file: Path, **changed: object) -> Path:
    content = {name: str(file.parent / name.lower()) for name in ("BADGER_PLUGIN_ROOT", *window_config.ROOTS)}
    file.write_text(yaml.safe_dump(content | changed))
    return file


def test_where_there_is_none_ours_is_written_once(home: Path) -> None:
    config = window_config.read_config()
    assert config.file == window_config.default_file().resolve()
    assert (config.exists, config.plugin_root) == (False, plugin_root())
    assert list(home.iterdir()) == []
    window_config.write_config(config)
    again = window_config.read_config()
    assert again.exists and again.folders == config.folders
    assert all(folder.is_dir() for folder in again.folders.values())
    with pytest.raises(FileExistsError):
        window_config.write_config(config)


def test_badgers_own_form_of_a_setting_is_read(tmp_path: Path) -> None:
    # As Badger writes it, with a description.
    file = written(tmp_path / "badger.yaml", BADGER_PLUGIN_ROOT={"display_name": "plugin root", "value": "/a/b"})
    assert window_config.read_config(file).plugin_root == Path("/a/b")


def test_another_plugin_root_is_for_one_session(tmp_path: Path) -> None:
    file = written(tmp_path / "badger.yaml", BADGER_THEME="light")
    before = file.read_text()
    config = window_config.read_config(file)
    (session := tmp_path / "session").mkdir()
    changed = window_config.with_plugin_root(config, plugin_root(), session)
    assert file.read_text() == before
    assert window_config.read_config(changed.file).plugin_root == plugin_root()
    content = yaml.safe_load(changed.file.read_text())
    assert content["BADGER_THEME"] == "light"
    assert content["BADGER_ARCHIVE_ROOT"] == str(config.folders["BADGER_ARCHIVE_ROOT"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no settings"),
        ("- a list", "has no settings"),
        ("a: [", "is no configuration of Badger"),
        ("BADGER_PLUGIN_ROOT: /plugins", "BADGER_TEMPLATE_ROOT is not set"),
        ("BADGER_PLUGIN_ROOT: 7", "BADGER_PLUGIN_ROOT is not set"),
    ],
)
def test_one_that_badger_could_not_use_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    (file := tmp_path / "badger.yaml").write_text(text)
    with pytest.raises(SettingsError) as raised:
        window_config.read_config(file)
    assert str(file) in str(raised.value) and said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert file.read_text() == text


def test_a_plugin_root_without_our_plugins_is_told(tmp_path: Path) -> None:
    problem = window_config.plugin_problem(tmp_path / "nowhere")
    assert problem is not None and "is not there" in problem
    problem = window_config.plugin_problem(tmp_path)
    assert problem is not None and "has none of the interfaces of badger-k2eg (epics_pva" in problem
    shutil.copytree(plugin_root() / "interfaces", tmp_path / "interfaces")
    problem = window_config.plugin_problem(tmp_path)
    assert problem is not None and "has no environments" in problem
    shutil.copytree(plugin_root() / "environments", tmp_path / "environments")
    assert window_config.plugin_problem(tmp_path) is None
    assert window_config.plugin_problem(plugin_root()) is None
