"""The pint registry of this package, made at the first use of a quantity.

It is separate from pint's own, so that its definitions do not affect a program that uses pint itself. pint is imported
inside the functions.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .. import fork
from . import egu

if TYPE_CHECKING:
    import pint

_lock = fork.Lock()
# Opaque units by their name in pint, and back.
_texts: dict[str, str] = {}
_names: dict[str, str] = {}


@lru_cache(maxsize=1)
def registry() -> pint.UnitRegistry[Any]:
    """Return the registry."""
    import pint
    from pint.compat import upcast_type_map

    made: pint.UnitRegistry[Any] = pint.UnitRegistry()
    # pint's gauss belongs to the Gaussian system, and does not convert to tesla.
    made.define("Gauss = 1e-4 * tesla")
    # In arithmetic with a reading, the reading computes the result.
    upcast_type_map["badger_k2eg.core.model.Reading"] = None  # type: ignore[index] # pint says it is for that
    return made


def unit_of(powers: egu.Powers) -> pint.Unit:
    """Return pint's unit."""
    made: pint.Unit = registry().Unit("")
    for name, power in powers:
        made = made * getattr(registry(), name) ** (int(power) if power == int(power) else power)
    return made


def opaque(text: str) -> pint.Unit:
    """Return a unit of which only the text is known: it equals itself, and converts to nothing.

    A text with spaces around its operators is a product of such units, as pint writes it.
    """
    if " * " in text or " / " in text or " ** " in text:
        return _composed(text)
    with _lock:
        if text not in _names:
            name = re.sub(r"\W+", "_", text).strip("_")
            if not name.isascii() or not name[:1].isalpha():
                name = f"unit_{len(_texts)}"
            elif name in _texts or name in registry():
                name = f"{name}_{len(_texts)}"
            registry().define(f"{name} = [{name}]")
            _names[text], _texts[name] = name, text
        return registry().Unit(_names[text])


def _composed(text: str) -> pint.Unit:
    made: pint.Unit = registry().Unit("")
    sign = 1
    for part in re.split(r" ([*/]) ", text):
        if part in ("*", "/"):
            sign = 1 if part == "*" else -1
            continue
        word, _, power = part.partition(" ** ")
        exponent = sign * (float(power) if re.fullmatch(r"-?\d+(\.\d+)?", power) else 1.0)
        own = _texts.get(word, word)
        known = egu.read(own) if own else ()
        one = unit_of(known) if known is not None else opaque(own)
        made = made * one ** (int(exponent) if exponent == int(exponent) else exponent)
    return made


def text_of(unit: Any) -> str:
    """Return a unit as an EGU text that is read as the same unit."""
    if unit == registry().Unit(""):
        return ""
    text = str(unit)
    return _texts.get(text, text)
