"""Badger's own window, started so that its children do not hang and its forms do not stand still.

Owns what must be imported before the first fork, the few places where the window is helped, and the end of its
children. The window is Badger's, opened by ``badger -g``; Badger is imported inside functions only, as it reads its
configuration while it is imported.

Badger forks its children from a thread while the main one goes on importing: a child that then imports p4p first waits
for ever for an import lock that nobody holds (3 of 8 starts, measured on 1.6).
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from .window_config import WindowConfig
from .witness import look_at_badgers_own

#: What a child would otherwise import first: the client libraries, and what our plugins stand on.
_BEFORE_FORK = (
    "importlib.readers",
    "p4p.client.raw",
    "p4p.client.thread",
    "confluent_kafka",
    "msgpack",
    "pint",
    "sqlite3",
    "badger_k2eg.badger_app.environment",
    "badger_k2eg.backends.pva",
    "badger_k2eg.backends.ca",
    "badger_k2eg.backends.k2eg",
)
#: What ends a process from outside: kill, and a console that is closed.
_ENDS = (signal.SIGTERM, signal.SIGHUP)
#: Seconds for a child to put the machine where it is to be left; one without a run ends at once.
_PATIENCE = 30.0


def open_window(config: WindowConfig) -> int:
    """Open Badger's window, and return when it is closed.

    :param config: of a file that exists. That Badger loads, a display and the plugin root have been looked at.
    :returns: Badger's exit code.
    """
    from badger.settings import init_settings

    init_settings(str(config.file))
    for name in _BEFORE_FORK:
        # An optional part that is not installed is not used by a child either.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    from badger import __main__ as badger

    _help_the_window(config.plugin_root)
    sys.argv = ["badger", "-g", "-cf", str(config.file)]
    for number in _ENDS:
        signal.signal(number, _quit)
    os.register_at_fork(after_in_child=_end_by_signals)
    try:
        badger.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    finally:
        _end_children()
    return 0


def _quit(number: int, frame: FrameType | None) -> None:
    """Close the window, so that its children end too: left alone they would go on turning magnets."""
    from PyQt5.QtWidgets import QApplication

    QApplication.quit()


def _end_by_signals() -> None:
    # In a child, which has no window to close.
    for number in _ENDS:
        signal.signal(number, signal.SIG_DFL)


def _end_children() -> None:
    """End what the window has left: a child that waits for a run would hold up the exit for ever."""
    for child in multiprocessing.active_children():
        child.terminate()
        child.join(_PATIENCE)
        if child.is_alive():
            child.kill()


def _help_the_window(plugin_root: Path) -> None:
    """Put our window in the place of Badger's, which ``badger -g`` will open."""
    import badger.gui
    from badger.gui.components.routine_runner import BadgerRoutineSubprocess
    from badger.gui.windows.docs_window import BadgerDocsWindow
    from badger.gui.windows.main_window import BadgerMainWindow
    from badger.routine import Routine

    class Window(BadgerMainWindow):
        """Badger's window, with its forms helped."""

        def __init__(self) -> None:
            super().__init__()
            editor = self.home_page.routine_editor
            _go_on_without_the_machine(editor)
            _ask_with_present_parameters(editor)
            _look_before_running(self.home_page)
            _tell_what_does_not_load(editor.env_box.var_table)

    def refresh_docs_view(self: Any) -> None:
        # So that a README's picture beside it is found.
        folder = plugin_root / f"{self.plugin_type}s" / self.docs_name
        self.markdown_viewer.setSearchPaths([str(folder)] if self.plugin_type else [])
        shown(self)

    def handle_measurement_error(self: Any, told: dict[str, Any]) -> Any:
        return asked(self, {**told, "title": cause(told.get("title", ""))})

    shown: Callable[[Any], None] = BadgerDocsWindow.refresh_docs_view
    BadgerDocsWindow.refresh_docs_view = refresh_docs_view
    asked: Callable[..., Any] = BadgerRoutineSubprocess.handle_measurement_error
    BadgerRoutineSubprocess.handle_measurement_error = handle_measurement_error
    badger.gui.BadgerMainWindow = Window
    look_at_badgers_own(Routine)


def cause(told: str) -> str:
    """Take what an evaluation raised out of Xopt's error, which has the whole traceback before it.

    Badger's Retry dialog shows that error in large letters: the cause would be below the edge of the screen. Its
    Details still have all of it.
    """
    _, traceback, text = told.rpartition("Traceback (most recent call last):\n")
    if not traceback:
        return told
    lines = text.splitlines()
    while lines and (lines[0].startswith(" ") or not lines[0].strip()):
        del lines[0]
    # badger_k2eg.core.errors.PutTimeout: ... -> PutTimeout: ...
    name, colon, rest = "\n".join(lines).strip().partition(":")
    return f"{name.rpartition('.')[2]}{colon}{rest}" or told


def _go_on_without_the_machine(editor: Any) -> None:
    """Let an environment be chosen whose PVs do not answer.

    Badger reads the variables for its automatic ranges, and where that fails leaves the form half filled: no
    objectives, and no way to correct the Parameters, which every choice sets back. Here the error is told, and the
    ranges stay the whole ones until Refresh.
    """
    from badger.errors import BadgerEnvInstantiationError, BadgerEnvVarError
    from PyQt5.QtCore import QTimer

    limit: Callable[..., None] = editor.set_vrange

    def set_vrange(*args: Any, **options: Any) -> None:
        try:
            limit(*args, **options)
        except (BadgerEnvVarError, BadgerEnvInstantiationError) as error:
            text = (
                f"{_first_of(str(error))}\n\nThe ranges are the whole ones. Correct the Parameters, or wait for the "
                "machine; then press Refresh."
            )
            # After the form is filled: who opens a dialog waits for its end.
            QTimer.singleShot(0, partial(_warn, editor, text))

    editor.set_vrange = set_vrange


def _warn(parent: Any, text: str) -> None:
    from PyQt5.QtCore import Qt
    from PyQt5.QtWidgets import QMessageBox

    box = QMessageBox(QMessageBox.Warning, "No present values", text, QMessageBox.Ok, parent)
    # Of its own accord it takes a <b> in what a machine says for HTML.
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.exec_()


def _first_of(told: str) -> str:
    """Take the first PV out of Badger's text around ours, one line each, and count the others."""
    lines = told.removeprefix("Failed to get current variable values : ").splitlines()
    others = len([line for line in lines[1:] if not line.startswith("Please ensure")])
    return f"{lines[0]}; {others} more" if others else lines[0]


def _ask_with_present_parameters(editor: Any) -> None:
    """Let Info and an added variable go by the Parameters as they stand, not as they stood when chosen."""
    table = editor.env_box.var_table

    def present(ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any) -> Any:
            table.env = None
            table.env_class, table.configs = editor.add_var()
            return ask(*args)

        return asked

    table.display_info = present(table.display_info)
    table.get_bounds = present(table.get_bounds)


def _look_before_running(home: Any) -> None:
    """Tell what is wrong with Parameters or machine before the run begins, in our words.

    Badger would wrap our line into four of its own, and where the machine does not answer leave a Stop button for a run
    that there is not.
    """
    prepare: Callable[..., None] = home.prepare_run
    editor = home.routine_editor

    def prepare_run(*args: Any, **options: Any) -> None:
        try:
            if editor.env is not None:
                editor.create_env().get_variables(list(editor.env_box.var_table.export_variables()))
        except Exception:
            # Whatever it is: the Run button must come back. Badger shows the error.
            home.sig_routine_invalid.emit()
            raise
        prepare(*args, **options)

    home.prepare_run = prepare_run


def _tell_what_does_not_load(table: Any) -> None:
    """Let Badger say why a plugin does not load: clearing the form for it fails on its own account before."""
    update: Callable[..., None] = table.update_variables

    def update_variables(variables: Any, *args: Any, **options: Any) -> None:
        update(variables or [], *args, **options)

    table.update_variables = update_variables
