"""What users import: the exact list of it, the stub for type checkers, and that our own examples need no more."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import badger_k2eg
from badger_k2eg import errors
from badger_k2eg.core import errors as core_errors

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(badger_k2eg.__file__).parent
PUBLIC_MODULES = ("errors", "k2eg.dml", "procedures", "testing")
SURFACE = """
    Control Reader connect ThroughK2eg MemoryBackend Settings
    Outcome PutResult Reading SetReport Severity timestamp
    Quantity parse_unit unit
    Future background first_completed gather sleep
    all_of reaches wait_for_readback within
    Buffer Condition Expression Knob Observable Skew
    Attachment Restore running lock locked_by
    Journal Query RecordKind RecordedRun
    K2egClient SnapshotProperties
    ControlEnvironment ControlInterface K2egInterface ReplayInterface HeadlessRun load_routine open_badger plugin_root
    errors
""".split()


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _needs_badger(name: str) -> bool:
    return badger_k2eg._HOMES.get(name, "").startswith("badger_app")


def test_the_public_names_are_these() -> None:
    assert badger_k2eg.__all__ == sorted(SURFACE)
    assert set(SURFACE) <= set(dir(badger_k2eg))
    with pytest.raises(AttributeError, match="'badger_k2eg' has no attribute 'Controls'"):
        badger_k2eg.Controls  # noqa: B018


@pytest.mark.parametrize("name", SURFACE)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    if _needs_badger(name):
        pytest.importorskip("badger", reason="needs pip install 'badger-k2eg[badger]'")
    value = getattr(badger_k2eg, name)
    assert value.__doc__, name
    assert getattr(value, "__name__", name).rpartition(".")[2] == name


def test_no_public_name_is_hidden_by_a_module() -> None:
    # Importing badger_k2eg.x makes x an attribute of the package, in the place of a function of that name.
    assert set(SURFACE) & {module.name for module in pkgutil.iter_modules([str(PACKAGE)])} == {"errors"}


def test_the_stub_for_type_checkers_has_the_same_names_from_the_same_modules() -> None:
    told: dict[str, str] = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            # Only `X as X` makes a name of a stub public.
            told |= {alias.name: node.module or "" for alias in node.names if alias.asname == alias.name}
    assert told == {"errors": "", **badger_k2eg._HOMES}


def test_an_import_of_the_package_brings_in_nothing_else() -> None:
    before, after = (
        set(_python(f"import sys, importlib{more}; print(*sys.modules)").split()) for more in ("", ", badger_k2eg")
    )
    assert after - before == {"badger_k2eg"}


def test_an_import_of_the_package_takes_no_time() -> None:
    code = "import time; t = time.perf_counter(); import badger_k2eg; print(time.perf_counter() - t)"
    assert min(float(_python(code)) for _ in range(3)) < 0.050


def test_what_needs_no_machine_opens_no_client() -> None:
    light = [name for name in SURFACE if not _needs_badger(name) and not name.startswith(("K2eg", "Snapshot"))]
    code = f"import sys, badger_k2eg\nfor name in {light}: getattr(badger_k2eg, name)\nprint(*sys.modules)"
    assert not {"p4p", "caproto", "confluent_kafka", "badger", "torch", "pint"} & set(_python(code).split())


def test_the_paths_that_tests_of_others_patch_are_there() -> None:
    assert importlib.util.find_spec("badger_k2eg.backends.pva") is not None
    assert "Context" in (PACKAGE / "backends/pva/__init__.py").read_text(encoding="utf-8")
    assert importlib.import_module("badger_k2eg.core.futures").sleep is badger_k2eg.sleep


def test_every_error_is_in_the_public_module() -> None:
    own = {name for name, value in vars(core_errors).items() if isinstance(value, type) and name in _raised()}
    assert own == set(errors.__all__)
    assert all(getattr(errors, name) is getattr(core_errors, name) for name in own)


def _raised() -> set[str]:
    found, new = set[type](), [core_errors.ControlError]
    while new:
        found.add(kind := new.pop())
        new += [other for other in kind.__subclasses__() if other.__module__.startswith("badger_k2eg.core.")]
    return {kind.__name__ for kind in found}


# -- our own guides, examples and plugins ----------------------------------------------------------------------------


def _sources() -> Iterator[tuple[str, str]]:
    for guide in (ROOT / "README.md", *ROOT.glob("examples/**/*.md"), *ROOT.glob("*s/*/README.md")):
        blocks = re.findall(r"^```python\n(.*?)^```", guide.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for number, block in enumerate(blocks, 1):
            yield f"{guide.relative_to(ROOT)}, block {number}", block
    for folder in ("examples", "environments", "interfaces"):
        for file in (ROOT / folder).rglob("*.py"):
            yield str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")


def _private(source: str) -> Iterator[str]:
    public = {*SURFACE, *(module.partition(".")[0] for module in PUBLIC_MODULES if "." not in module)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "badger_k2eg":
            modules = [f"badger_k2eg.{alias.name}" for alias in node.names if alias.name not in public]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            name = module.removeprefix("badger_k2eg.")
            if name != module and not any(f"{name}.".startswith(f"{allowed}.") for allowed in PUBLIC_MODULES):
                yield module


def test_guides_examples_and_plugins_import_what_is_public_alone() -> None:
    sources = list(_sources())
    assert sum("badger_k2eg" in text for _, text in sources) >= 20
    assert {where: found for where, text in sources if (found := list(_private(text)))} == {}


def test_a_private_import_would_be_found() -> None:
    assert list(_private("from badger_k2eg.core.model import Reading\nfrom badger_k2eg import core, Control")) == [
        "badger_k2eg.core.model",
        "badger_k2eg.core",
    ]
    assert list(_private("import badger_k2eg.run\nfrom badger_k2eg.testing.soft_ioc import Part")) == [
        "badger_k2eg.run"
    ]


# -- types -----------------------------------------------------------------------------------------------------------

USER = """
from typing import Any, assert_type

from pint import Quantity as PintQuantity
from badger_k2eg import Control, Future, MemoryBackend, Quantity, Reading, SetReport, errors, gather, sleep, unit

control = Control(MemoryBackend({"A": 1.0}))
assert_type(control.set({"A": 1.0}, timeout=10 * unit.second), SetReport)
assert_type(control.set({"A": Quantity(1, "mA")}, callback=None), Future[SetReport])
assert_type(control.read(["A"]), dict[str, Reading])
assert_type(gather(control.set({"A": 1.0}, callback=None), timeout=5), list[SetReport])
assert_type(gather(control.set({"A": 1.0}, callback=None), sleep(1, callback=None)), list[Any])
assert_type(control.read(["A"])["A"].quantity, PintQuantity[Any])
try:
    control.set({"A": 2.0})
except errors.SetError as error:
    assert_type(error.report, SetReport | None)
"""


@pytest.mark.extended
def test_a_users_program_is_type_checked(tmp_path: Path) -> None:
    """In the plain run the types are checked with the package's own."""
    pytest.importorskip("mypy", reason="needs pip install 'badger-k2eg[dev]'")
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml", str(tmp_path / "user.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
