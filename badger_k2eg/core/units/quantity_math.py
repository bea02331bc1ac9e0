"""Arithmetic on values with a unit: operators, numpy's functions, indexing.

The class that uses the mixin says how a result is made; this module knows nothing of readings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from . import Quantity, is_quantity, text_of

if TYPE_CHECKING:
    import pint


class Arithmetic(NDArrayOperatorsMixin):
    """A mixin for a class with ``value`` and ``units`` (a text)."""

    __slots__ = ()

    # Filled by the class.
    value: Any
    units: str

    def computed(self, value: Any, units: str, parts: Sequence[Any]) -> Any:
        """Return a result.

        :param parts: the operands of this class, at least one.
        """
        raise NotImplementedError

    @property
    def unit(self) -> pint.Unit:
        """The unit as pint's; an opaque one for an unknown text."""
        from . import parse_unit

        return parse_unit(self.units)

    @property
    def quantity(self) -> pint.Quantity[Any]:
        """The value with its unit, as pint's Quantity.

        :raises TypeError: for a value that is not a number: a text, a table.
        """
        if (
            not isinstance(self.value, int | float | np.ndarray | np.generic)
            or np.asarray(self.value).dtype.kind in "OUS"
        ):
            raise TypeError(f"{self.value!r} is not a number, so it has no quantity")
        return Quantity(self.value, self.unit)

    # -- numpy ------------------------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if options.get("out") is not None:
            return NotImplemented
        operands = _bare(inputs)
        if method == "__call__" or not any(map(is_quantity, operands)):
            return self._dressed(getattr(ufunc, method)(*operands, **options), inputs)
        # pint knows these only as functions: add.reduce is sum, and so on.
        name = {"add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min"}.get(ufunc.__name__)
        if method != "reduce" or name is None:
            return NotImplemented
        options.pop("dtype", None)
        return self._dressed(getattr(np, name)(*operands, **options), inputs)

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        parts: list[Any] = []
        return self._dressed(func(*_bare(args, parts), **_bare(kwargs, parts)), parts)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self.value, dtype=dtype) if copy is not False else np.asarray(self.value, dtype=dtype)

    def _dressed(self, result: Any, inputs: Sequence[Any]) -> Any:
        parts = [part for part in inputs if isinstance(part, Arithmetic)]
        if isinstance(result, tuple | list):
            return type(result)(self._dressed(one, parts) for one in result)
        units = ""
        if is_quantity(result):
            if result.dimensionless and len(dict(result.unit_items())) > 1:
                # 2 A / 500 mA is 4, not 0.004 A/mA, which could be mistaken for 0.004.
                result = result.to("")
            result, units = result.magnitude, text_of(result.units)
        if not isinstance(result, int | float | np.ndarray | np.generic):
            return result
        return self.computed(result.item() if isinstance(result, np.generic) else result, units, parts)

    # -- as a number, as an array -------------------------------------------------------------------------------------

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other  # pint has no divmod

    def __round__(self, digits: int | None = None) -> Any:
        return self.computed(round(self.value, digits), self.units, [self])

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: Any) -> Any:
        value = self.value[index]
        return self.computed(value.item() if isinstance(value, np.generic) else value, self.units, [self])

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self.value)))


def _bare(item: Any, parts: list[Any] | None = None) -> Any:
    """Return operands as plain values or quantities, also inside lists."""
    if isinstance(item, Arithmetic):
        if parts is not None:
            parts.append(item)
        return item.quantity if item.units else item.value
    if isinstance(item, tuple | list):
        return type(item)(_bare(one, parts) for one in item)
    if isinstance(item, dict):
        return {key: _bare(one, parts) for key, one in item.items()}
    return Quantity(item) if is_quantity(item) else item
