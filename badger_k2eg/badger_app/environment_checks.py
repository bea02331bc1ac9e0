"""The checks of an environment's class, while Badger loads it: each mistake is one line. Touches no PV."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Any

from badger.environment import EnvMeta
from pydantic import PydanticUserError

from ..core.errors import SettingsError
from ..core.suggestions import close_to
from ..tuning import Buffer, Condition, Expression, Knob, Observable

_MEASURABLE = (Observable, Buffer, Expression)
#: The names that have a meaning in a class body, to Badger or to this package.
_WORDS = ("name", "knobs", "measures", "conditions", "can_start", "keep_running", "record", "variables", "observables")
#: What a class may hold besides its parameters.
_METHODS = (types.FunctionType, property, classmethod, staticmethod, type)


class DeclaredMeta(EnvMeta):
    """Metaclass that finds misspelt names in a class body, of which pydantic would say several lines.

    :raises SettingsError: one line with the environment and the name.
    """

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        """Make the class."""
        own = namespace.get("name")
        where = f"environment {own}" if isinstance(own, str) else f"environment class {name}"
        # The class that declares the names themselves has no base of this kind.
        if any(isinstance(base, DeclaredMeta) for base in bases):
            _check_words(where, namespace)
        try:
            return super().__new__(mcs, name, bases, namespace)
        except PydanticUserError as error:
            raise SettingsError(f"{where}: {_untyped(bases, namespace) or str(error).splitlines()[0]}") from None


def _check_words(where: str, namespace: Mapping[str, Any]) -> None:
    annotations = namespace.get("__annotations__", {})
    for word, value in namespace.items():
        if word in _WORDS:
            if "ClassVar" not in str(annotations.get(word, "ClassVar")):
                raise SettingsError(f"{where}: {word} takes no annotation: write {word} = ...")
        elif not word.startswith("_") and (_declares(value) or (_is_group(value) and close_to(word, _WORDS))):
            raise SettingsError(f"{where}: there is no {word!r}; {_meant(word)}")


def _declares(value: Any) -> bool:
    """Return whether a value holds a declaration."""
    values = value.values() if isinstance(value, Mapping) else value if _is_group(value) else (value,)
    return any(isinstance(each, (Knob, Condition, *_MEASURABLE)) for each in values)


def _is_group(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _meant(word: str) -> str:
    close = close_to(word, _WORDS)
    return f"did you mean {close!r}?" if close else "declarations belong in knobs, measures and conditions"


def _untyped(bases: Iterable[type], namespace: Mapping[str, Any]) -> str | None:
    """Describe the attribute that pydantic takes for a field without a type."""
    known = set().union(*(getattr(base, "__class_vars__", ()) for base in bases))
    typed = namespace.get("__annotations__", {})
    for word, value in namespace.items():
        if word.startswith("_") or word in known or word in typed or isinstance(value, _METHODS):
            continue
        if close := close_to(word, _WORDS):
            return f"there is no {word!r}; did you mean {close!r}?"
        return f"parameter {word} needs a type: {word}: {type(value).__name__} = {value!r}"
    return None


def check_declarations(cls: Any) -> None:
    """Check the declarations of an environment's class.

    :raises SettingsError: one line.
    """
    folder = cls.__module__.split(".")[1:] if cls.__module__.startswith("environments.") else []
    if not isinstance(cls.name, str):
        raise SettingsError(f"environment class {cls.__name__}: it needs a name, the same as its folder's")
    where = f"environment {cls.name}"
    if "-" in cls.name:
        raise SettingsError(f"{where}: its name must not contain '-': Badger would not find its archived runs")
    # The class that Badger loads; one of another name is the author's own helper.
    if len(folder) == 1 and cls.__name__ == "Environment" and folder[0] != cls.name:
        raise SettingsError(f"{where}: its folder is called {folder[0]}; folder and name must be the same")
    for word, kinds, what in (
        ("knobs", (Knob, str), "a Knob or a PV"),
        ("measures", (*_MEASURABLE, str), "an Observable, a Buffer, an Expression or a PV"),
    ):
        declared = getattr(cls, word)
        if not isinstance(declared, Mapping):
            raise SettingsError(f"{where}: {word} must be a dict: {word} = {{'name': ...}}")
        for name, each in declared.items():
            if not isinstance(name, str) or not isinstance(each, kinds):
                raise SettingsError(f"{where}: {word}: {name!r} must be {what}, not {type(each).__name__}")
    for word, kind, what, example in (
        ("conditions", Condition, "a Condition", "Condition(...)"),
        ("can_start", Condition, "a Condition", "Condition(...)"),
        ("keep_running", Condition, "a Condition", "Condition(...)"),
        ("record", str, "a PV", "'BPM:X'"),
    ):
        declared = getattr(cls, word)
        if not isinstance(declared, list | tuple):
            raise SettingsError(f"{where}: {word} must be a tuple; with one element: {word} = ({example},)")
        for each in declared:
            if not isinstance(each, kind):
                raise SettingsError(f"{where}: {word}: each must be {what}, not {type(each).__name__}")
