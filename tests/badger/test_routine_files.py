"""The mistakes that a routine file may hold, each told in one line; and the files that are shipped."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.errors import SettingsError

from .routines import CLONE, SETPOINTS, START, vocs, written

pytestmark = pytest.mark.usefixtures("badger_config", "quiet")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environment": None}, "environment: missing"),
        ({"generator": None}, "generator: missing"),
        ({"environment": None, "enviroment": "pv_template"}, "enviroment: no such key; did you mean 'environment'?"),
        ({"generator": None, "generatr": "neldermead"}, "generatr: no such key; did you mean 'generator'?"),
        ({"max_evalutions": 3}, "max_evalutions: no such key; did you mean 'max_evaluations'?"),
        ({"environment": ["pv_template"]}, "environment: names with values are expected, not ['pv_template']"),
        ({"vocs": {"variabels": {}}}, "vocs: variabels: no such key; did you mean 'variables'?"),
        ({"vocs": vocs(objectives={"f": "MINIMISE"})}, "f: there is no rule 'MINIMISE'; did you mean 'MINIMIZE'?"),
        ({"vocs": vocs(constraints={"f": ["LESS", 1]})}, "f: there is no rule 'LESS'; did you mean 'LESS_THAN'?"),
        ({"vocs": vocs(constraints=["f"])}, "vocs: constraints: names with values are expected, not ['f']"),
        ({"environment": {"name": "pv_templat"}}, "environment: there is no environment 'pv_templat'; did you mean"),
        ({"environment": {"name": "pv_template", "x9": "A"}}, "environment pv_template: there is no parameter 'x9'"),
        ({"environment": {"name": "pv_template", "read_only": "perhaps"}}, "environment pv_template: read_only: must"),
        ({"environment": {"name": "pv_template", "interface_name": "pigeon"}}, "there is no interface 'pigeon'"),
        ({"interface": {"name": "pigeon"}}, "there is no interface 'pigeon'"),
        ({"interface": {"name": "epics_pva", "params": {"readonly": True}}}, "there is no option 'readonly'"),
        ({"generator": {"name": "nelder"}}, "generator: there is no generator 'nelder'; did you mean 'neldermead'"),
        ({"generator": {"name": "neldermead", "adaptiv": True}}, "generator neldermead: there is no option 'adaptiv'"),
        ({"generator": {"name": "neldermead", "adaptive": "x"}}, "generator neldermead: adaptive: Input should be"),
        ({"vocs": vocs(variables={})}, "vocs: variables: missing; at least one is needed"),
        ({"vocs": vocs(objectives={})}, "vocs: objectives: missing; at least one is needed"),
        ({"vocs": vocs(objectives={"f": "SMALL"})}, "vocs: objectives"),
        ({"vocs": vocs(variables={"x0": [2, -2]})}, "vocs: variables: x0: bounds reversed: 2 is above -2"),
        ({"vocs": vocs(variables={"x0": [1, 1]})}, "vocs: variables: x0: the range is empty: 1 to 1"),
        ({"vocs": vocs(variables={"x0": 3})}, "vocs: variables: x0: a range must be two numbers, not 3"),
        ({"vocs": vocs(variables={"x0": [0, 9]})}, "x0: 0 to 9 exceeds the bounds of environment pv_template, -2 to 2"),
        ({"vocs": vocs(variables={"q1": [0, 1]})}, "q1: environment pv_template has no such variable"),
        ({"vocs": vocs(objectives={"g": "MINIMIZE"})}, "objectives: g: environment pv_template has no such observable"),
        ({"initial_points": [{"x0": 0.0}]}, "initial_points: a point must have x0, x1, not x0"),
        ({"initial_points": [{"x0": 0.0, "x1": 3.0}]}, "initial_points: x1 = 3 is outside its range, -2 to 2"),
        ({"generators": {}}, "generators: no such key; did you mean 'generator'"),
        ({"max_evaluations": 0}, "routine: stopping_condition: MaxEvaluationsCondition: max_evaluations: Input should"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(
    changes: dict[str, Any], said: str, memory: MemoryBackend, tmp_path: Path
) -> None:
    from badger_k2eg.badger_app.headless import load_routine

    file = written(tmp_path, **changes)
    with pytest.raises(SettingsError, match=f"^{re.escape(str(file))}: .*{re.escape(said)}") as caught:
        load_routine(file, context=memory)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(str(file)) == 1
    assert memory.value(SETPOINTS[0]) == START[SETPOINTS[0]]


@pytest.mark.parametrize("file", sorted((CLONE / "examples" / "routines").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_routines_fit_their_environments(file: Path) -> None:
    from badger_k2eg.badger_app.build_routine import read_routine_file

    routine = read_routine_file(file).content
    environment = importlib.import_module(f"environments.{routine['environment']['name']}").Environment
    assert routine["environment"].keys() - {"name"} <= environment.model_fields.keys()
    bounds = {name: environment.variables[name] for name in routine["vocs"]["variables"]}
    for name, (low, high) in routine["vocs"]["variables"].items():
        assert bounds[name][0] <= low < high <= bounds[name][1]
    wanted = {*routine["vocs"]["objectives"], *routine["vocs"].get("constraints", {})}
    assert wanted <= set(environment.observables)
    assert routine["max_evaluations"] > 0
