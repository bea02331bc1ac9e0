"""The program of the window's process: ``driver.py ACT FOLDER OPTIONS ARGUMENT...`` is ``badger-k2eg gui ARGUMENT...``
with a user at it (``stage``), who does one of the ``acts``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(act: str, folder: str, options: str, *arguments: str) -> None:
    from badger_k2eg.badger_app import gui
    from badger_k2eg.cli import main as command

    correct_the_window = gui.correct_the_window

    def with_a_user(plugin_root: Path) -> None:
        correct_the_window(plugin_root)
        import badger.gui

        from tests.gui import acts, stage

        ours: Any = badger.gui.BadgerMainWindow

        class Watched(ours):
            def __init__(self) -> None:
                super().__init__()
                self.user = stage.User(self, getattr(acts, act), Path(folder), json.loads(options))

        badger.gui.BadgerMainWindow = Watched

    gui.correct_the_window = with_a_user
    command(["gui", *arguments], prog_name="badger-k2eg")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(*sys.argv[1:])
