"""What the user does in each test, in the window's process. Badger is loaded when this is imported."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

from PyQt5.QtCore import QTimer, QUrl
from PyQt5.QtGui import QTextDocument
from PyQt5.QtWidgets import QLabel

from .stage import User, dialog, text_of

Steps = Iterator[tuple[str, Callable[[], object]]]
MAGNETS = ("SOL1", "QUAD1", "QUAD2", "QUAD3")


def _environment(user: User, name: str) -> Steps:
    yield from user.choose(user.env.cb, name)
    yield "its objectives", lambda: user.env.obj_table.rowCount() > 1


def _ranges(user: User) -> None:
    if user.options.get("ranges"):
        # As "Set Variable Range" does it: a part of the whole range, for a picture with something to see.
        user.editor.limit_option |= {"limit_option_idx": 1, "ratio_full": user.options["ranges"]}


def _goal(user: User, variables: tuple[str, ...], objective: str) -> Steps:
    """Say what to turn, what to make small, and how."""
    for name in variables:
        user.tick(user.env.var_table, name)
        yield f"{name} ticked", lambda name=name: user.env.var_table.is_checked(name)
    user.tick(user.env.obj_table, objective)
    yield f"{objective} ticked", lambda: bool(user.env.obj_table.export_data())
    yield from _tab(user, "Algorithm")
    yield from user.choose(user.editor.generator_box.cb, "neldermead")


def _tab(user: User, name: str) -> Steps:
    tabs = user.editor.tabs
    (index,) = [each for each in range(tabs.count()) if tabs.tabText(each) == name]
    user.click(tabs.tabBar(), tabs.tabBar().tabRect(index).center())
    yield f"the tab {name}", lambda: tabs.currentIndex() == index


def _parameters(user: User, **texts: str) -> Steps:
    """Open the Parameters, and type."""
    if not user.env.edit.isVisible():
        user.click(user.env.btn_params)
        yield "the Parameters", lambda: user.env.edit.height() > 100
    for name, text in texts.items():
        user.type(name, text)
    yield "what was typed", lambda: all(user.parameter(name).text() == text for name, text in texts.items())


def three_ways(user: User) -> Steps:
    """One run over PVAccess, one through the gateway, and the first one again without a machine, to its end."""
    _ranges(user)
    yield from _environment(user, "virtual_injector")
    yield from _parameters(user, interface_name="epics_pva", after_stop="restore")
    yield from _goal(user, MAGNETS, "spot")
    for interface in ("epics_pva", "k2eg", "replay"):
        yield from _tab(user, "Environment + VOCS")
        if interface != "epics_pva":
            first = {"replay_run": user.runs[0].id} if interface == "replay" else {}
            yield from _parameters(user, interface_name=interface, **first)
        yield from user.start()
        if interface == "replay":
            # The first one was stopped in mid-evaluation: of that one it has no answer.
            yield "the dialog", lambda: dialog() is not None
            user.note("end of the record", text_of(dialog()))
            yield from user.close_dialog("Stop Run")
            yield "the end of the run", lambda: user.bar.run_action.text() == "Run" and not user.monitor.running
            yield from user.shot(interface)
        else:
            yield f"evaluations on {interface}", lambda: user.evaluations >= user.options["evaluations"]
            if interface == "k2eg":
                yield from user.shot(interface)
            yield from user.stop()
            user.note("dialog", None if dialog() is None else text_of(dialog()))
        user.note("data", user.data(*MAGNETS, "spot"))


def direct_and_gateway(user: User) -> Steps:
    """The children of the second run and those after it are forked while the window has a Kafka client."""
    yield from _environment(user, "virtual_injector")
    yield from _goal(user, MAGNETS, "spot")
    yield from _tab(user, "Environment + VOCS")
    for interface in ("epics_pva", "k2eg", "k2eg"):
        yield from _parameters(user, interface_name=interface)
        yield from user.start()
        yield f"an evaluation on {interface}", lambda: user.evaluations >= 1
        yield from user.stop()


def child_killed(user: User) -> Steps:
    """The child that turns the magnets is killed, which nothing can be told of; then comes another run."""
    yield from _environment(user, "virtual_injector")
    yield from _parameters(user, after_stop="restore")
    yield from _goal(user, MAGNETS, "spot")
    yield from user.start()
    yield "evaluations", lambda: user.evaluations >= 3
    os.kill(user.monitor.routine_runner.routine_process.pid, signal.SIGKILL)
    yield "the end of the run", lambda: user.bar.run_action.text() == "Run" and not user.monitor.running
    user.note("state", user.runs[0].state)
    yield from user.start()
    yield "evaluations", lambda: user.evaluations >= 2
    yield from user.stop()


def three_runs(user: User) -> Steps:
    _ranges(user)
    yield from _environment(user, "virtual_injector")
    user.note("bounds", user.bounds())
    user.note("initial points", user.env.init_table.columnCount())
    yield from _goal(user, MAGNETS, "spot")
    yield from _tab(user, "Environment + VOCS")
    user.note("first point", [user.env.init_table.item(0, column).text() for column in range(len(MAGNETS))])
    yield from user.shot("chosen")
    yield from _tab(user, "Algorithm")
    wanted = [user.options.get("evaluations", 8), 2, 2]
    for run, number in enumerate(wanted):
        if run == 2:
            yield from _tab(user, "Environment + VOCS")
            yield from _parameters(user, after_stop="restore")
        before = user.editor.create_env().get_variables(MAGNETS)
        yield from user.start()
        yield f"{number} evaluations", lambda number=number: user.evaluations >= number
        if run == 0:
            yield from user.shot("running")
        # In mid-evaluation: the next one has begun.
        yield from user.stop()
        user.note("evaluations", user.evaluations)
        user.note("data", user.data(*MAGNETS, "spot"))
        user.note("magnets", [before, user.editor.create_env().get_variables(MAGNETS)])
        user.note("dialog", None if dialog() is None else text_of(dialog()))
        yield from user.shot(("stopped", "second_run", "third_run")[run])


def look(user: User) -> Steps:
    """Look at Parameters, the info on a variable, and the docs of every environment."""
    yield from _environment(user, "virtual_injector")
    yield from _parameters(user)
    user.note("parameters", list(user.env.edit.get_parameters_dict()))
    yield from user.shot("parameters")
    user.click(user.env.btn_params)
    yield "the Parameters closed", lambda: not user.env.edit.isVisible()
    yield from user.info("SOL1")
    texts = [label.text() for label in dialog().findChildren(QLabel)]
    user.note("info", dict(zip(texts[::2], texts[1::2], strict=True)))
    yield from user.shot("info")
    yield from user.close_dialog("Close")
    for name, variables, objective in (
        ("virtual_injector", (), "spot"),
        ("fel_linac", ("matching_1", "matching_2"), "pulse_energy"),
        ("pv_template", ("x0", "x1"), "f"),
    ):
        yield from _environment(user, name)
        yield from _goal(user, variables, objective)
        yield from _tab(user, "Environment + VOCS")
        if variables:
            yield from user.shot(name)
        yield from _docs(user, name)


def _docs(user: User, name: str) -> Steps:
    user.click(user.env.btn_docs)
    docs = user.editor.window_env_docs
    yield "the docs", docs.isVisible
    docs.resize(700, 900)
    if name == "virtual_injector":
        yield from user.shot("docs")
    viewer = docs.markdown_viewer
    (picture,) = re.findall(r'<img src="([^"]+)"', docs.docs)
    loaded = viewer.document().resource(QTextDocument.ImageResource, QUrl(picture))
    user.note("docs", [name, viewer.toPlainText(), loaded is not None and not loaded.isNull()])
    docs.close()


def no_machine(user: User) -> Steps:
    """Choose an environment that nobody serves; correct the prefix, and run."""
    began = time.monotonic()
    yield from user.choose(user.env.cb, "virtual_injector")
    yield "the warning", lambda: dialog() is not None
    user.note("choosing took", time.monotonic() - began)
    user.note("warning", text_of(dialog()))
    yield from user.shot("no_machine")
    yield from user.close_dialog()
    yield "its objectives", lambda: user.env.obj_table.rowCount() > 1
    user.note("bounds without", user.bounds())
    began = time.monotonic()
    yield from user.info("SOL1")
    user.note("info took", time.monotonic() - began)
    yield from user.close_dialog("Close")
    for what, click in (("ticking", partial(user.tick, user.env.var_table, "SOL1")), ("run", user.press_run)):
        began = time.monotonic()
        click()
        yield "an error", lambda: dialog() is not None
        user.note(f"{what} took", time.monotonic() - began)
        user.note(f"{what} without", text_of(dialog()))
        yield from user.close_dialog()
    user.note("run button", [user.bar.run_action.text(), user.bar.btn_stop.isEnabled(), user.monitor.running])
    yield from _parameters(user, prefix=user.options["prefix"])
    yield from _goal(user, MAGNETS[1:], "spot")
    user.click(user.env.btn_refresh)
    yield from _tab(user, "Environment + VOCS")
    yield "the ranges around the present", lambda: user.bounds()["SOL1"][0] > 0.9
    yield from user.start()
    yield "an evaluation", lambda: user.evaluations >= 2
    yield from user.stop()


def mistakes(user: User) -> Steps:
    """A misspelt interface, and an emptied parameter."""
    yield from _environment(user, "virtual_injector")
    yield from _goal(user, MAGNETS, "spot")
    yield from _tab(user, "Environment + VOCS")
    yield from _parameters(user, interface_name="epics_pav")
    user.press_run()
    yield "an error", lambda: dialog() is not None
    user.note("misspelt", text_of(dialog()))
    yield from user.shot("misspelt")
    yield from user.close_dialog()
    user.note("running", user.monitor.running)
    yield from _parameters(user, interface_name="epics_pva", prefix="")
    user.press_run()
    yield "an error", lambda: dialog() is not None
    user.note("emptied", text_of(dialog()))
    yield from user.close_dialog()
    user.note("running", user.monitor.running)
    yield from _parameters(user, interface_name="epics_pav", prefix="INJ")
    user.tick(user.env.var_table, "QUAD4")
    yield "an error", lambda: dialog() is not None
    user.note("misspelt, on a click", text_of(dialog()))
    yield from user.close_dialog()


def interrupted(user: User) -> Steps:
    """Choose an environment that does not load; then Ctrl-C at the terminal, twice as Badger wants it."""
    user.note("environments", user.editor.envs)
    # Badger tells of it in a dialog of its own, before the list is closed.
    QTimer.singleShot(0, lambda: user.env.cb.setCurrentText("broken"))
    yield "an error", lambda: dialog() is not None
    user.note("does not load", text_of(dialog()))
    yield from user.close_dialog()
    yield "a child", lambda: bool(user.window.process_manager.processes_queue)
    user.note("done", True)
    os.kill(os.getpid(), signal.SIGINT)
    at = time.monotonic() + 0.3
    yield "a moment", lambda: time.monotonic() > at
    os.kill(os.getpid(), signal.SIGINT)
    yield "the end", lambda: False


def terminated(user: User) -> Steps:
    """Somebody kills the window in the middle of a run."""
    yield from _environment(user, "virtual_injector")
    yield from _parameters(user, after_stop="restore")
    yield from _goal(user, MAGNETS, "spot")
    yield from user.start()
    yield "evaluations", lambda: user.evaluations >= 2
    user.note("done", True)
    os.kill(os.getpid(), signal.SIGTERM)
    yield "the end", lambda: False


def retry(user: User) -> Steps:
    """Two magnets; a put to the first is lost once, those to the second are refused: Retry, Retry, Stop Run."""
    counters = [f"{user.options['prefix']}:PUTS:{name}" for name in ("LOSTONCE", "REFUSE")]
    # As by "Set Variable Range": the PVs are at zero, where a part of the present value is nothing.
    user.editor.limit_option |= {"limit_option_idx": 1, "ratio_full": 0.5}
    yield from user.choose(user.env.cb, "pv_template")
    yield "the warning", lambda: dialog() is not None
    yield from user.close_dialog()
    names = {"x0": "LOSTONCE", "x1": "REFUSE", "f": "READONLY"}
    pvs = {name: f"{user.options['prefix']}:{pv}" for name, pv in names.items()}
    yield from _parameters(user, timeout="1", **pvs)
    # As by "Clear All" and "Add Random".
    user.editor.init_table_actions = [{"type": "add_rand", "config": user.editor.add_rand_config}]
    yield from _goal(user, ("x0", "x1"), "f")
    user.click(user.env.btn_refresh)
    yield from _tab(user, "Environment + VOCS")
    yield from user.start()
    for button in ("Retry Measurement", "Retry Measurement", "Stop Run"):
        # The child waits for the answer: nothing is put meanwhile.
        yield "the dialog", lambda: dialog() is not None
        puts = list(user.editor.create_env().interface.get_values(counters).values())
        user.note("asked", [text_of(dialog()), puts])
        if not user.evaluations and puts == [1, 0]:
            yield from user.shot("retry")
        yield from user.close_dialog(button)
    yield "the end of the run", lambda: user.bar.run_action.text() == "Run" and not user.monitor.running
    user.note("evaluations", user.evaluations)
