"""``badger-k2eg gui`` before there is a window: what is missing is one line, and nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def gui(*words: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {n: v for n, v in os.environ.items() if n not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
    return subprocess.run(
        [sys.executable, "-m", "badger_k2eg.cli", "gui", *words],
        capture_output=True,
        text=True,
        cwd=home,
        env={**kept, "HOME": str(home), **environment},
        stdin=subprocess.DEVNULL,
        timeout=150,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have their own display")
@pytest.mark.parametrize(("display", "said"), [("", "there is no display"), (":987", "no window can be opened on")])
def test_no_display_is_one_line(display: str, said: str, tmp_path: Path) -> None:
    done = gui(home=tmp_path, DISPLAY=display)
    assert (done.returncode, done.stdout) == (1, "")
    if display and "apt install" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stderr.startswith(f"badger-k2eg: {said}")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--plugin-rot", "."), "Did you mean '--plugin-root'?"),
        (("--plugin-root", "nowhere"), "nowhere"),
        (("--plugin-root", "."), "has none of the interfaces of badger-k2eg"),
        (("please",), "unexpected extra argument"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = gui(*words, home=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_with_another_plugin_root_is_told_and_not_changed(tmp_path: Path) -> None:
    roots = ("PLUGIN_ROOT", "TEMPLATE_ROOT", "LOGBOOK_ROOT", "ARCHIVE_ROOT")
    text = "".join(f"BADGER_{name}: {tmp_path}\n" for name in roots)
    (file := tmp_path / "theirs.yaml").write_text(text)
    done = gui("--config", str(file), home=tmp_path)
    assert done.returncode == 2
    assert f"{file} says so, --plugin-root names another for one session" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert file.read_text() == text
