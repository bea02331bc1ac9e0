"""Units: EGU texts of records and of users as pint's units, and arithmetic that carries them.

A text that nobody knows is no error in a record: it makes an opaque unit, which equals itself and converts to nothing.
A user who asks for a unit by name gets an error. pint is imported when the first unit is asked for. Imports errors,
fork and wording.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from . import egu
from .egu import FILE_VARIABLE

__all__ = ["FILE_VARIABLE", "Quantity", "is_known", "is_quantity", "named", "parse_unit", "same", "text_of", "unit"]


def parse_unit(text: str) -> Any:
    """Read the EGU text of a record.

    >>> str(parse_unit("Amps")), str(parse_unit("kG/m")), str(parse_unit("DegS"))
    ('ampere', 'kiloGauss / meter', 'DegS')

    :returns: a ``pint.Unit``: dimensionless for an empty text, an opaque one for a text that nobody knows.
    :raises SettingsError: for a wrong file of texts (``BADGER_K2EG_UNITS``).
    """
    powers = egu.read(text)
    return _opaque(text.strip()) if powers is None else _known(powers)


def named(text: str) -> Any:
    """Read a unit that a user gives by its name or symbol.

    :raises UnknownUnit: (a ValueError) for one that there is not, saying what was meant.
    """
    return _known(egu.named(text))


@lru_cache(maxsize=4096)
def _known(powers: egu.Powers) -> Any:
    from .registry import unit_of

    return unit_of(powers)


@lru_cache(maxsize=4096)
def _opaque(text: str) -> Any:
    from .registry import opaque

    return opaque(text)


def text_of(unit: Any) -> str:
    """Write a unit as a text that ``parse_unit`` reads back."""
    from .registry import text_of

    return text_of(unit)


def same(text: str, other: str) -> bool:
    """Whether two texts mean the same unit; does not import pint."""
    one, two = egu.read(text), egu.read(other)
    return one == two if one is not None and two is not None else text.strip() == other.strip()


def is_known(text: str) -> bool:
    """Whether an EGU text is a unit, and not opaque; does not import pint.

    :raises SettingsError: for a wrong file of egu.
    """
    return egu.read(text) is not None


def is_quantity(value: object) -> bool:
    """Whether a value is a number with a unit, of our registry or of somebody's own."""
    return hasattr(value, "magnitude") and hasattr(value, "units") and hasattr(value, "to")


def Quantity(value: Any, unit: Any = "") -> Any:  # noqa: N802 - made like pint's own
    """Make a number (or array) with a unit: ``Quantity(5, "mA")``.

    :param value: a number, an array, or a quantity of another pint registry, which takes no unit.
    :param unit: a name or symbol, or a unit.
    :raises UnknownUnit: for a unit that there is not.
    """
    from .registry import registry

    if is_quantity(value):
        if getattr(value, "_REGISTRY", None) is registry():
            return value
        value, unit = value.magnitude, str(value.units)
    return registry().Quantity(value, named(unit) if isinstance(unit, str) else unit)


class _Units:
    """Every unit as an attribute: ``unit.ampere``, ``unit.milliampere``, ``unit.mA``."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return named(name)
        except ValueError as error:
            raise AttributeError(str(error)) from None

    def __call__(self, text: str) -> Any:
        """Read what is no Python name: ``unit("kG/m")``.

        :raises UnknownUnit: for one that there is not.
        """
        return named(text)


unit = _Units()
