"""How a session shares its tests out: to the workers of `pytest -n N`, with those that measure time alone at the end.

A worker has parts of its own (IOC, broker, gateway), which the tests of one file, and of one way to reach PVs, use one
after the other. So these stay together, except in the few long files whose tests share nothing. A test marked `timing`
compares times that other tests at work would spoil: it runs after all others, in the process that was started, when the
workers have ended.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from .pace import begin

try:
    from xdist.scheduler import LoadScopeScheduling
except ImportError:  # pytest-xdist is not needed for a run in one process
    LoadScopeScheduling = object

#: What waits longest is given out first, and what is short fills the gaps at the end.
_LONG_FIRST = ("golden", "gui", "badger", "interop", "gateway", "system", "contract", "unit")
#: In these each test may go to another worker.
_DIVIDED = ("golden/test_gateway", "gui/", "badger/test_plugins", "badger/test_run", "system/test_kafka_fork")
_TESTS = Path(__file__).parents[1]
_MACHINE = re.compile(r"::.*[\[-](memory|pva|ca|k2eg)[\]-]")
_ALONE = pytest.StashKey[list[str]]()


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Say how many workers `-n auto` starts: tests wait more than they compute."""
    return min(2 * (os.cpu_count() or 1) + 1, 12)


class ByFileAndMachine(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker all tests of one file on one kind of machine, in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.removeprefix("tests/").startswith(_DIVIDED):
            return nodeid
        machine = _MACHINE.search(nodeid)
        return f"{file} on {machine[1]}" if machine else file

    def remove_node(self, node: Any) -> str | None:
        """Give the test in which a worker has died; what it had still to do goes to others, but not that one again."""
        units = self.assigned_work.get(node, {}).values()
        died = next((test for unit in units for test, done in unit.items() if not done), None)
        for unit in units:
            if died in unit:
                unit[died] = True
        super().remove_node(node)
        return died


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return ByFileAndMachine(config, log) if config.getoption("dist") == "load" else None


@pytest.hookimpl(trylast=True)  # after the selection by markers and words
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    alone = [item for item in items if item.get_closest_marker("timing")]
    others = [item for item in items if not item.get_closest_marker("timing")]
    if is_worker(config):
        items[:] = sorted(others, key=_rank)
        config.workeroutput["alone"] = [item.nodeid for item in alone]  # type: ignore[attr-defined]
    else:
        items[:] = others + alone


def _rank(item: pytest.Item) -> int:
    folders = item.path.relative_to(_TESTS).parts if item.path.is_relative_to(_TESTS) else ()
    return _LONG_FIRST.index(folders[0]) if folders and folders[0] in _LONG_FIRST else len(_LONG_FIRST)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if names := getattr(node, "workeroutput", {}).get("alone"):
        # Every worker has collected the same.
        node.config.stash[_ALONE] = names


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    begin()


# Innermost: what measures coverage around the loop is to see these tests, too.
@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Any:
    result = yield
    names = session.config.stash.get(_ALONE, [])
    if names and not (session.shouldstop or session.shouldfail):
        _run_alone(session, names)
    return result


def _run_alone(session: pytest.Session, names: list[str]) -> None:
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    reporter.ensure_newline()
    reporter.write_sep("-", f"{len(names)} tests that measure time, one after the other")
    others = session.testscollected
    items = session.perform_collect([str(session.config.rootpath / name) for name in names])
    session.testscollected = others + len(items)
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
