"""The selected members of unions, which p4p's dicts omit and K2EG's wire includes. Part of ``pva``.

A union is a map of one key, the selected member; the key of a variant union ("any") is the empty text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..normative_types import pv_type


def whole_tree(structure: Any) -> dict[str, Any]:
    """Return a structure as nested dicts that name the members of its unions."""
    tree: dict[str, Any] = _named(structure.todict(None, dict), structure.type().aspy())
    return tree


def _named(value: Any, code: Any) -> Any:
    if code == "v":
        return {"": value}
    if code == "av":
        return [{"": item} for item in value or ()]
    if not isinstance(code, tuple):
        return value
    kind, structure_id, members = code
    if kind in ("aS", "aU"):
        return [_named(item, (kind[1:], structure_id, members)) for item in value or ()]
    if kind == "U":
        name, member = _selected(value, members)
        return {name: _named(value, member)}
    return {name: _named(value[name], member) for name, member in members if name in value}


def _selected(value: Any, members: Sequence[tuple[str, Any]]) -> tuple[str, Any]:
    """Return the first member whose type holds the value."""
    for name, code in members:
        if _holds(code, value):
            return name, code
    return "", None


def _holds(code: Any, value: Any) -> bool:
    if not isinstance(code, str):
        if code[0] == "S":
            return isinstance(value, Mapping)
        return code[0] in ("aS", "aU") and isinstance(value, list)
    of_type = pv_type(code)
    try:
        dtype = of_type.dtype
    except TypeError:  # texts, and what has no type of its own
        return isinstance(value, list if of_type.array else str)
    if of_type.array:
        return isinstance(value, np.ndarray) and value.dtype == dtype
    if dtype.kind == "b" or isinstance(value, bool):
        return dtype.kind == "b" and isinstance(value, bool)
    return isinstance(value, float) if dtype.kind == "f" else isinstance(value, int)
