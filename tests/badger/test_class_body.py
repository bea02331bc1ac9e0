"""The class of an environment: a wrong word or declaration in it is told in one line, while Badger loads it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from badger_k2eg.badger_app.environment import ControlEnvironment
from badger_k2eg.errors import SettingsError
from badger_k2eg.tuning import Condition, Knob, Observable

KNOBS = {"q": Knob("Q")}
PERMIT = Condition("P", equals=1)


def environment(module: str = "somewhere", types: dict[str, Any] | None = None, **body: Any) -> Any:
    """Make the class that has this body."""
    given = {"name": "mine", "__module__": module, "__qualname__": "Environment", "__annotations__": types or {}}
    return type(ControlEnvironment)("Environment", (ControlEnvironment,), {**given, **body})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"knob": KNOBS}, "there is no 'knob'; did you mean 'knobs'?"),
        ({"measure": {"a": "X"}}, "there is no 'measure'; did you mean 'measures'?"),
        ({"condition": (PERMIT,)}, "there is no 'condition'; did you mean 'conditions'?"),
        ({"measure": {"a": "X"}, "types": {"measure": dict}}, "there is no 'measure'; did you mean 'measures'?"),
        ({"varibles": {"x": [0.0, 1.0]}}, "there is no 'varibles'; did you mean 'variables'?"),
        ({"magnets": KNOBS}, "there is no 'magnets'; declarations belong in knobs, measures and conditions"),
        ({"knobs": KNOBS, "types": {"knobs": dict}}, "knobs takes no annotation: write knobs = ..."),
        ({"knobs": [Knob("Q")]}, "knobs must be a dict: knobs = {'name': ...}"),
        ({"knobs": {"q": 3}}, "knobs: 'q' must be a Knob or a PV, not int"),
        (
            {"measures": {"q": Knob("Q")}},
            "measures: 'q' must be an Observable, a Buffer, an Expression or a PV, not Knob",
        ),
        ({"conditions": PERMIT}, "conditions must be a tuple; with one element: conditions = (Condition(...),)"),
        ({"conditions": ("P",)}, "conditions: each must be a Condition, not str"),
        ({"area": "QUAD"}, "parameter area needs a type: area: str = 'QUAD'"),
        ({"timeout": "5"}, "parameter timeout needs a type: timeout: str = '5'"),
        ({"module": "environments.other"}, "its folder is called other; folder and name must be the same"),
    ],
)
def test_a_mistake_is_one_line(body: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        environment(**body)
    assert str(caught.value) == f"environment mine: {said}"


def test_a_name_that_will_not_do() -> None:
    with pytest.raises(SettingsError, match="environment my-linac: its name must not contain '-'"):
        environment(name="my-linac")
    with pytest.raises(SettingsError, match="it needs a name"):

        class Nameless(ControlEnvironment):
            knobs = KNOBS


def test_what_a_class_may_hold() -> None:
    class Rich(ControlEnvironment):
        name = "rich"
        # A helper's name begins with _; a constant says that it is none of the parameters.
        _quadrupoles = ("Q1", "Q2")
        limit: ClassVar[float] = 3.0
        knobs: ClassVar[Any] = {name: Knob(f"{{area}}:{name}") for name in ("Q1", "Q2")}
        measures = {"size": Observable("SIZE"), "charge": "CHARGE"}
        conditions = [PERMIT]

        area: str | None = "L"

        def helper(self) -> float:
            return self.limit

        @property
        def doubled(self) -> float:
            return 2 * self.limit

    assert Rich().doubled == 6.0
    assert Rich.variables == {"Q1": [], "Q2": []}
    assert environment(module="environments.mine").name == "mine"

    class Child(Rich):
        name = "child"

    assert Child().pv("Q1") == "L:Q1"
