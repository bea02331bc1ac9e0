"""The emittance of a beam from a quadrupole scan: from its size on a screen at different focusing.

sigma_11 on the screen is R11^2 s11 + 2 R11 R12 s12 + R12^2 s22, with s11, s12 and s22 of the beam before the
quadrupole, for every strength: three unknowns, linear in what is measured (M. Minty and F. Zimmermann, Measurement and
Control of Charged Particle Beams, Springer 2003, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..control import Control
from ..core.units import Quantity
from ..tuning import Knob, Measurable
from .scan import ScanResult, scan

#: Rest energy of the electron in MeV (CODATA 2018).
ELECTRON = 0.51099895


@dataclass(frozen=True, slots=True)
class Emittance:
    """Emittance and Twiss parameters of the beam before the quadrupole.

    :ivar geometric: m rad.
    :ivar normalized: m rad.
    :ivar beta: m.
    :ivar scan: the measured points.
    """

    geometric: float
    normalized: float
    beta: float
    alpha: float
    scan: ScanResult | None = None

    def __str__(self) -> str:
        return f"normalized emittance {self.normalized * 1e6:.3f} um, beta {self.beta:.3f} m, alpha {self.alpha:.3f}"

    def plot(self, file: str) -> Any:
        """Draw the scan into a file."""
        return self.scan.plot(file) if self.scan is not None else None


def quadrupole_scan(
    control: Control,
    quadrupole: Knob | str,
    fields: Sequence[float],
    size: Measurable | str,
    *,
    length: float,
    drift: float,
    momentum: float,
    plane: Literal["x", "y"] = "x",
    resolution: float = 0.0,
    restore: bool = True,
) -> Emittance:
    """Scan a quadrupole, and return the emittance from the beam's size on a screen behind it.

    :param fields: integrated gradients in kG; a positive one focuses in x.
    :param size: the rms size, in the unit of its PV.
    :param length: length of the quadrupole in m.
    :param drift: distance from its end to the screen in m, with nothing else in between.
    :param momentum: p c of the beam in MeV.
    :param resolution: rms resolution of the screen in m; subtracted in quadrature.
    :raises ValueError: when no beam has such sizes: too few points, or no waist among them.
    """
    result = scan(control, {"field": quadrupole}, {"field": fields}, {"size": size}, restore=restore)
    measured = [sample["size"] for sample in result.samples]
    metres = [float(Quantity(each.value, each.readings[-1].unit).to("meter").magnitude) for each in measured]
    found = fit_emittance(fields, metres, length, drift, momentum, plane, resolution)
    return replace(found, scan=result)


def fit_emittance(
    fields: Sequence[float],
    sizes: Sequence[float],
    length: float,
    drift: float,
    momentum: float,
    plane: Literal["x", "y"] = "x",
    resolution: float = 0.0,
) -> Emittance:
    """Return the beam that has these sizes (m) on the screen at these fields (kG); see ``quadrupole_scan``.

    :raises ValueError: when no beam has such sizes.
    """
    squares = np.array(sizes) ** 2 - resolution**2
    if len(squares) < 3 or not (squares > 0.0).all():
        raise ValueError(f"at least three sizes, all above the screen's resolution, are needed, not {list(sizes)!r}")
    rows = []
    for field in fields:
        first, second = _first_row(field if plane == "x" else -field, length, drift, momentum)
        rows.append((first * first, 2.0 * first * second, second * second))
    # Weighted by relative error: the small sizes determine the emittance.
    weights = 1.0 / squares
    (s11, s12, s22), *_ = np.linalg.lstsq(np.array(rows) * weights[:, None], squares * weights, rcond=None)
    area = s11 * s22 - s12 * s12
    if not (area > 0.0 and s11 > 0.0):
        raise ValueError("no beam has such sizes: scan through the waist, with more points")
    geometric = math.sqrt(area)
    return Emittance(geometric, geometric * momentum / ELECTRON, float(s11 / geometric), float(-s12 / geometric))


def _first_row(field: float, length: float, drift: float, momentum: float) -> tuple[float, float]:
    """Return R11 and R12 of a thick quadrupole and a drift."""
    rigidity = momentum / 299.792458  # T m
    strength = 0.1 * field / length / rigidity  # 1/m^2
    angle = math.sqrt(abs(strength)) * length
    if angle < 1e-6:
        return 1.0, length + drift
    root = angle / length
    if strength > 0.0:
        return math.cos(angle) - drift * root * math.sin(angle), math.sin(angle) / root + drift * math.cos(angle)
    return math.cosh(angle) + drift * root * math.sinh(angle), math.sinh(angle) / root + drift * math.cosh(angle)
