"""A user at Badger's window: runs in the window's own process, and does what an act says, step by step.

An act is a generator. It yields what it waits for, and goes on when that is so; clicks are posted, so that a dialog
that one of them opens does not stop the act. Notes and failures go to a file, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PyQt5 import sip
from PyQt5.QtCore import QPoint, Qt, QTimer
from PyQt5.QtTest import QTest
from PyQt5.QtWidgets import QApplication, QComboBox, QDialog, QLineEdit, QMenu, QMessageBox, QPushButton, QWidget

from badger_k2eg.journal import Journal, RecordedRun

TICK = 50
PATIENCE = 60.0

Act = Callable[["User"], Iterator[tuple[str, Callable[[], object]]]]


def dialog() -> QDialog | None:
    """The dialog that is open, the newest first."""
    found = [each for each in QApplication.topLevelWidgets() if isinstance(each, QDialog) and each.isVisible()]
    active = QApplication.activeModalWidget()
    return active if isinstance(active, QDialog) else (found[-1] if found else None)


def text_of(box: QDialog) -> str:
    return box.text() if isinstance(box, QMessageBox) else box.textLabel.text()


class User:
    """What a user sees of the window, and does in it.

    :param window: Badger's.
    :param folder: for screenshots and the notes.
    """

    def __init__(self, window: Any, act: Act, folder: Path, options: dict[str, Any]) -> None:
        self.window = window
        self.home = window.home_page
        self.editor = self.home.routine_editor
        self.env = self.editor.env_box
        self.bar = self.home.run_action_bar
        self.monitor = self.home.run_monitor
        self.options = options
        self._folder = folder
        self._notes = (folder / "notes.jsonl").open("a", buffering=1)
        self._steps = act(self)
        self._waits: tuple[str, Callable[[], object]] = ("the window", window.isVisible)
        self._since = time.monotonic()
        self._timer = QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(TICK)

    def _tick(self) -> None:
        what, holds = self._waits
        try:
            if not holds():
                if time.monotonic() - self._since > PATIENCE:
                    raise TimeoutError(f"waited in vain for {what}")
                return
            self._waits = next(self._steps)
            self._since = time.monotonic()
        except StopIteration:
            self._timer.stop()
            self.note("done", True)
            QTimer.singleShot(0, self.window.close)
        except BaseException as error:
            self._timer.stop()
            self.note("failed", f"{type(error).__name__}: {error} (waiting for {what})")
            if (box := dialog()) is not None and hasattr(box, "textLabel"):
                self.note("dialog", box.textLabel.text() + box.detailedTextWidget.toPlainText())
            self._grab("failed")
            # Dialogs may be open, each with a loop of its own: there is no way out but this.
            import multiprocessing

            for child in multiprocessing.active_children():
                child.kill()
            os._exit(1)

    # -- what is written down -----------------------------------------------------------------------------------------

    def note(self, name: str, value: Any) -> None:
        self._notes.write(json.dumps([name, value]) + "\n")

    def shot(self, name: str) -> Iterator[tuple[str, Callable[[], object]]]:
        """Take a picture of the whole screen, once all is painted."""
        at = time.monotonic() + 0.3
        yield "the painting", lambda: time.monotonic() > at
        self._grab(name)

    def _grab(self, name: str) -> None:
        QApplication.primaryScreen().grabWindow(0).save(str(self._folder / f"{name}.png"))

    # -- what is done -------------------------------------------------------------------------------------------------

    @staticmethod
    def click(widget: QWidget, at: QPoint | None = None) -> None:
        QTimer.singleShot(0, lambda: QTest.mouseClick(widget, Qt.LeftButton, Qt.NoModifier, at or QPoint()))

    @staticmethod
    def press(text: str, box: QDialog) -> None:
        """Press a button of a dialog."""
        (button,) = [each for each in box.findChildren(QPushButton) if each.text().replace("&", "") == text]
        User.click(button)

    def choose(self, box: QComboBox, text: str) -> Iterator[tuple[str, Callable[[], object]]]:
        """Open a list, and take an item by the keyboard."""
        self.click(box)
        yield "the list", box.view().isVisible
        index = box.model().index(box.findText(text), 0)
        box.view().setCurrentIndex(index)
        QTimer.singleShot(0, lambda: QTest.keyClick(box.view(), Qt.Key_Return))
        yield f"{text} chosen", lambda: box.currentText() == text

    def parameter(self, name: str) -> QLineEdit:
        """The entry of a parameter of the environment."""
        (item,) = self.env.edit.findItems(name, Qt.MatchExactly | Qt.MatchRecursive)
        self.env.edit.scrollToItem(item)
        entry = self.env.edit.itemWidget(item, 1)
        assert isinstance(entry, QLineEdit)
        return entry

    def type(self, name: str, text: str) -> None:
        """Type over what stands in a parameter."""
        entry = self.parameter(name)
        entry.selectAll()
        QTest.keyClick(entry, Qt.Key_Delete)
        QTest.keyClicks(entry, text)
        QTest.keyClick(entry, Qt.Key_Return)

    def tick(self, table: Any, name: str) -> None:
        """Click the check mark of a variable or an observable."""
        for row in range(table.rowCount()):
            item = table.item(row, 1)
            if item is not None and item.text() == name:
                table.scrollToItem(item)
                box = table.cellWidget(row, 0)
                self.click(box, QPoint(9, box.height() // 2))
                return
        raise LookupError(f"{name} is not in the table")

    def info(self, variable: str) -> Iterator[tuple[str, Callable[[], object]]]:
        """Open the info on a variable: right-click, Info."""
        table = self.env.var_table
        (item,) = table.findItems(variable, Qt.MatchExactly)
        place = table.visualItemRect(item).center()
        QTimer.singleShot(0, lambda: table.customContextMenuRequested.emit(place))
        yield "the menu", lambda: isinstance(QApplication.activePopupWidget(), QMenu)
        menu = QApplication.activePopupWidget()
        self.click(menu, menu.actionGeometry(menu.actions()[0]).center())
        yield "the info", lambda: dialog() is not None

    def close_dialog(self, button: str = "OK") -> Iterator[tuple[str, Callable[[], object]]]:
        box = dialog()
        self.press(button, box)
        yield "the dialog closed", lambda: sip.isdeleted(box) or not box.isVisible()

    # -- what is seen -------------------------------------------------------------------------------------------------

    @property
    def evaluations(self) -> int:
        """Rows in the table of the run."""
        table = self.home.run_table
        return sum(bool(table.item(row, 0) and table.item(row, 0).text()) for row in range(table.rowCount()))

    def data(self, *names: str) -> dict[str, list[float]]:
        """Give columns of what the run has measured."""
        data = self.home.current_routine.data
        return {name: data[name].tolist() for name in names}

    @property
    def runs(self) -> list[RecordedRun]:
        """The window's journal, the first run first."""
        journal = Journal.open()
        try:
            return journal.runs()
        finally:
            journal.close()

    def bounds(self) -> dict[str, list[float]]:
        table = self.env.var_table
        return {
            table.item(row, 1).text(): [table.cellWidget(row, 2).value(), table.cellWidget(row, 3).value()]
            for row in range(table.rowCount() - 1)
        }

    def press_run(self) -> None:
        """Press Run, which is Stop during a run."""
        self.click(self.bar.btn_stop)

    def start(self) -> Iterator[tuple[str, Callable[[], object]]]:
        self.press_run()
        yield "the run started", lambda: self.bar.run_action.text() == "Stop" or dialog() is not None

    def stop(self) -> Iterator[tuple[str, Callable[[], object]]]:
        began = time.monotonic()
        self.press_run()
        yield "the run stopped", lambda: self.bar.run_action.text() == "Run" and not self.monitor.running
        self.note("stop took", time.monotonic() - began)
        yield "a child for the next run", lambda: bool(self.window.process_manager.processes_queue)
