"""Badger's own window, started so that its children do not hang, and with a few corrections.

Owns what must be imported before the first fork, the corrections of the window, and the end of its children. The window
is Badger's, opened by ``badger -g``; Badger is imported inside functions only, as it reads its configuration on import.

Badger forks its children from a thread while the main one goes on importing: a child that imports p4p first then waits
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
from .witness import witness_evaluations

#: What a child would otherwise import first: the client libraries, and what the plugins need.
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
#: The signals that end a process from outside: kill, and a closed console.
_ENDS = (signal.SIGTERM, signal.SIGHUP)
#: Seconds for a child to leave the machine as its run is to leave it; one without a run ends at once.
_PATIENCE = 30.0


def open_window(config: WindowConfig) -> int:
    """Open Badger's window, and return when it is closed.

    :param config: of a file that exists. Badger itself, the display and the plugin root have been checked.
    :returns: Badger's exit code.
    """
    from badger.settings import init_settings

    init_settings(str(config.file))
    for name in _BEFORE_FORK:
        # An extra that is not installed is not used by a child either.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    from badger import __main__ as badger

    correct_the_window(config.plugin_root)
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
    """Close the window and so its children, which would otherwise go on setting magnets."""
    from PyQt5.QtWidgets import QApplication

    QApplication.quit()


def _end_by_signals() -> None:
    # In a child, which has no window to close.
    for number in _ENDS:
        signal.signal(number, signal.SIG_DFL)


def _end_children() -> None:
    """End the children that are left: one that waits for a run would block the exit for ever."""
    for child in multiprocessing.active_children():
        child.terminate()
        child.join(_PATIENCE)
        if child.is_alive():
            child.kill()


def correct_the_window(plugin_root: Path) -> None:
    """Replace the window that ``badger -g`` will open by a corrected one."""
    import badger.gui
    from badger.gui.components.routine_runner import BadgerRoutineSubprocess
    from badger.gui.windows.docs_window import BadgerDocsWindow
    from badger.gui.windows.main_window import BadgerMainWindow
    from badger.routine import Routine

    class Window(BadgerMainWindow):
        """Badger's window with corrected forms."""

        def __init__(self) -> None:
            super().__init__()
            editor = self.home_page.routine_editor
            _go_on_without_the_machine(editor)
            _use_present_parameters(editor)
            _check_before_running(self.home_page)
            _show_load_errors(editor.env_box.var_table)

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
    witness_evaluations(Routine)


def cause(told: str) -> str:
    """Return what an evaluation raised, without the traceback that Xopt's error puts before it.

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
    """Let the user choose an environment whose PVs do not answer.

    Badger reads the variables for its automatic ranges, and leaves the form half filled if that fails: no objectives,
    and no way to correct the Parameters, which every choice resets. Here the error is shown, and the ranges are the
    full ones until Refresh.
    """
    from badger.errors import BadgerEnvInstantiationError, BadgerEnvVarError
    from PyQt5.QtCore import QTimer

    limit: Callable[..., None] = editor.set_vrange

    def set_vrange(*args: Any, **options: Any) -> None:
        try:
            limit(*args, **options)
        except (BadgerEnvVarError, BadgerEnvInstantiationError) as error:
            text = (
                f"{_first_of(str(error))}\n\nThe full ranges are shown. Correct the Parameters, or wait for the "
                "machine; then press Refresh."
            )
            # After the form is filled: opening a dialog blocks until it is closed.
            QTimer.singleShot(0, partial(_warn, editor, text))

    editor.set_vrange = set_vrange


def _warn(parent: Any, text: str) -> None:
    from PyQt5.QtCore import Qt
    from PyQt5.QtWidgets import QMessageBox

    box = QMessageBox(QMessageBox.Warning, "No present values", text, QMessageBox.Ok, parent)
    # By default a <b> in a text of the machine is taken for HTML.
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.exec_()


def _first_of(told: str) -> str:
    """Return the line of the first PV in Badger's text, with the number of the others."""
    lines = told.removeprefix("Failed to get current variable values : ").splitlines()
    others = len([line for line in lines[1:] if not line.startswith("Please ensure")])
    return f"{lines[0]}; {others} more" if others else lines[0]


def _use_present_parameters(editor: Any) -> None:
    """Let Info and an added variable use the present Parameters, not those at the time of the choice."""
    table = editor.env_box.var_table

    def present(ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any) -> Any:
            table.env = None
            table.env_class, table.configs = editor.add_var()
            return ask(*args)

        return asked

    table.display_info = present(table.display_info)
    table.get_bounds = present(table.get_bounds)


def _check_before_running(home: Any) -> None:
    """Report a mistake in the Parameters, or a silent machine, before the run begins.

    Badger would wrap the one line of the error in four of its own, and leave a Stop button without a run if the machine
    does not answer.
    """
    prepare: Callable[..., None] = home.prepare_run
    editor = home.routine_editor

    def prepare_run(*args: Any, **options: Any) -> None:
        try:
            if editor.env is not None:
                editor.create_env().get_variables(list(editor.env_box.var_table.export_variables()))
        except Exception:
            # Whatever is raised: the Run button must come back. Badger shows the error.
            home.sig_routine_invalid.emit()
            raise
        prepare(*args, **options)

    home.prepare_run = prepare_run


def _show_load_errors(table: Any) -> None:
    """Let Badger show why a plugin cannot be loaded: its clearing of the form fails before that."""
    update: Callable[..., None] = table.update_variables

    def update_variables(variables: Any, *args: Any, **options: Any) -> None:
        update(variables or [], *args, **options)

    table.update_variables = update_variables
