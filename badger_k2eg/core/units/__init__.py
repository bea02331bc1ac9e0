"""Units: EGU texts of records and names given by users as pint's units, and arithmetic with them.

An unknown EGU text of a record is not an error: it becomes an opaque unit, which equals itself and converts to nothing.
An unknown name given by a user is one. pint is imported at the first use of a unit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from . import egu
from .egu import FILE_VARIABLE

if TYPE_CHECKING:
    import pint

__all__ = ["FILE_VARIABLE", "Quantity", "is_known", "is_quantity", "named", "parse_unit", "same", "text_of", "unit"]


def parse_unit(text: str) -> pint.Unit:
    """Return the unit of a record's EGU text.

    >>> str(parse_unit("Amps")), str(parse_unit("kG/m")), str(parse_unit("DegS"))
    ('ampere', 'kiloGauss / meter', 'DegS')

    :returns: a ``pint.Unit``: dimensionless for an empty text, an opaque one for an unknown text.
    :raises SettingsError: for an invalid file of unit texts (``BADGER_K2EG_UNITS``).
    """
    powers = egu.read(text)
    return _opaque(text.strip()) if powers is None else _known(powers)


def named(text: str) -> pint.Unit:
    """Return the unit of a name or symbol given by a user.

    :raises UnknownUnit: (a ValueError) if it does not exist, suggesting the closest.
    """
    return _known(egu.named(text))


@lru_cache(maxsize=4096)
def _known(powers: egu.Powers) -> pint.Unit:
    from .registry import unit_of

    return unit_of(powers)


@lru_cache(maxsize=4096)
def _opaque(text: str) -> pint.Unit:
    from .registry import opaque

    return opaque(text)


def text_of(unit: Any) -> str:
    """Return a unit as a text that ``parse_unit`` reads."""
    from .registry import text_of

    return text_of(unit)


def same(text: str, other: str) -> bool:
    """Return whether two texts mean the same unit; does not import pint."""
    one, two = egu.read(text), egu.read(other)
    return one == two if one is not None and two is not None else text.strip() == other.strip()


def is_known(text: str) -> bool:
    """Return whether an EGU text is a known unit; does not import pint.

    :raises SettingsError: for an invalid file of unit texts.
    """
    return egu.read(text) is not None


def is_quantity(value: object) -> bool:
    """Return whether a value is a number with a unit, of any pint registry."""
    return hasattr(value, "magnitude") and hasattr(value, "units") and hasattr(value, "to")


def Quantity(value: Any, unit: str | pint.Unit = "") -> pint.Quantity[Any]:  # noqa: N802 - called like pint's class
    """Return a number or an array with a unit: ``Quantity(5, "mA")``.

    :param value: a number, an array, or a quantity of another pint registry; the latter without ``unit``.
    :param unit: a name or symbol, or a unit.
    :raises UnknownUnit: if the unit does not exist.
    """
    from .registry import registry

    if is_quantity(value):
        if isinstance(value, registry().Quantity):
            return value
        value, unit = value.magnitude, str(value.units)
    return registry().Quantity(value, named(unit) if isinstance(unit, str) else unit)


class _Units:
    """Every unit as an attribute: ``unit.ampere``, ``unit.milliampere``, ``unit.mA``."""

    def __getattr__(self, name: str) -> pint.Unit:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return named(name)
        except ValueError as error:
            raise AttributeError(str(error)) from None

    def __call__(self, text: str) -> pint.Unit:
        """Return a unit whose name is not a Python name: ``unit("kG/m")``.

        :raises UnknownUnit: if it does not exist.
        """
        return named(text)


unit = _Units()
