"""The machine from the gun's exit to the screen: its elements, its magnets' power supplies, and what the beam does.

Owns the numbers of the machine and `propagate`, which is pure: magnetic fields in, beam out. The optics is in
`optics`; what is put to a setpoint and how it gets there is in `supplies`.

The beam is three slices of momentum, the nodes of a Gauss-Hermite rule, each with its own matrices (strength over
1 + delta): so the chromatic aberration of every lens and the dispersion of every kick are in the sizes, and the
smallest spot is not one at infinite strength.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from . import optics
from .optics import Array

MOMENTUM = 10.0
"""p c of the beam in MeV: behind a gun and a short booster cavity."""

MOMENTUM_SPREAD = 0.006
"""rms of delta = (p - p0)/p0."""

CHARGE = 250.0
"""pC in a bunch at the gun's exit."""

EMITTANCE = 1.0e-6
"""Normalized emittance at the gun's exit, m rad, at the best field of the solenoid."""

BEST_SOLENOID = 0.98
"""Field of the solenoid in kG at which the emittance is compensated."""

COMPENSATION_GROWTH = 5.0
"""Growth of the emittance per relative error of the solenoid's field, added in squares; see `emittance_growth`."""

RESOLUTION = 15e-6
"""rms of the screen's and camera's point spread, m; added in squares to the sizes."""

DESIGN_TWISS = (0.35, 0.0)
"""beta (m) and alpha on the screen, in both planes, for which what follows was made."""

_GUN_X = (9.0, -7.0)
_GUN_Y = (8.0, -6.5)
_GUN_CENTRE = (0.35e-3, 0.25e-3, -0.30e-3, -0.30e-3)

# Gauss-Hermite with three nodes: exact for polynomials up to the fifth power of delta.
_DELTA = MOMENTUM_SPREAD * np.array([-math.sqrt(3.0), 0.0, math.sqrt(3.0)])
_WEIGHTS = np.array([1.0, 4.0, 1.0]) / 6.0
_RIGIDITY = np.asarray(optics.magnetic_rigidity(MOMENTUM * (1.0 + _DELTA)))


@dataclass(frozen=True, slots=True)
class Magnet:
    """A magnet and its power supply; fields in the unit of its PVs."""

    name: str
    """In PV names, behind the prefix: `QUAD:1`."""
    egu: str
    """kG for the field of the solenoid and the integrated gradient of a quadrupole, kG-m for a corrector."""
    low: float
    high: float
    """Drive limits of the setpoint."""
    start: float
    rate: float
    """How fast the supply ramps, per second."""
    most: float = math.inf
    """What the supply can give, either sign; below `high` it clips without a word."""
    precision: int = 4

    @property
    def span(self) -> float:
        """From one drive limit to the other."""
        return self.high - self.low


MAGNETS: dict[str, Magnet] = {
    magnet.name: magnet
    for magnet in (
        Magnet("SOL1", "kG", 0.7, 1.2, 1.04, 1.0),
        Magnet("QUAD:1", "kG", -0.3, 0.3, 0.10, 1.0),
        Magnet("QUAD:2", "kG", 0.1, 0.7, 0.35, 1.0),
        Magnet("QUAD:3", "kG", -0.7, -0.1, -0.40, 1.0),
        Magnet("QUAD:4", "kG", -0.4, 0.4, -0.10, 1.0),
        Magnet("QUAD:5", "kG", -0.4, 0.4, 0.15, 1.0, most=0.3),
        Magnet("QUAD:6", "kG", -0.4, 0.4, 0.10, 0.05),
        Magnet("XCOR:1", "kG-m", -0.002, 0.002, 0.0001, 0.002, precision=6),
        Magnet("YCOR:1", "kG-m", -0.002, 0.002, -0.0001, 0.002, precision=6),
        Magnet("XCOR:2", "kG-m", -0.002, 0.002, -0.0002, 0.002, precision=6),
        Magnet("YCOR:2", "kG-m", -0.002, 0.002, 0.0002, 0.002, precision=6),
    )
}
"""Every magnet by name."""

START: dict[str, float] = {name: magnet.start for name, magnet in MAGNETS.items()}
"""The field of every magnet when the machine is switched on: clearly worse than the best."""


@dataclass(frozen=True, slots=True)
class Element:
    """One piece of the beam line."""

    kind: str
    """drift, solenoid, quadrupole, kick (thin, both planes), slit (rectangular), bpm, screen."""
    name: str = ""
    """The magnet's, or the number of a pair of correctors, a BPM."""
    length: float = 0.0
    """m."""
    radius: float = 0.0
    """Of the round pipe at its end, m; 0 for none. Half the opening of a slit."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Of a magnet's axis in x and y, m."""


LINE: tuple[Element, ...] = (
    Element("drift", length=0.25),
    Element("solenoid", "SOL1", length=0.25, radius=15e-3, offset=(0.10e-3, -0.05e-3)),
    Element("drift", length=0.20),
    Element("kick", "1"),
    Element("drift", length=0.20),
    Element("bpm", "1"),
    Element("drift", length=0.15),
    Element("quadrupole", "QUAD:1", length=0.1, radius=10e-3, offset=(0.15e-3, 0.10e-3)),
    Element("drift", length=0.25),
    Element("quadrupole", "QUAD:2", length=0.1, radius=10e-3, offset=(-0.20e-3, 0.15e-3)),
    Element("drift", length=0.25),
    Element("quadrupole", "QUAD:3", length=0.1, radius=10e-3, offset=(0.10e-3, -0.20e-3)),
    Element("drift", length=0.20),
    Element("kick", "2"),
    Element("drift", length=0.10),
    Element("bpm", "2"),
    Element("drift", length=0.10),
    Element("slit", radius=4e-3),
    Element("quadrupole", "QUAD:4", length=0.1, radius=10e-3, offset=(-0.10e-3, -0.10e-3)),
    Element("drift", length=0.25),
    Element("quadrupole", "QUAD:5", length=0.1, radius=10e-3, offset=(0.20e-3, 0.10e-3)),
    Element("drift", length=0.25),
    Element("quadrupole", "QUAD:6", length=0.1, radius=10e-3, offset=(-0.15e-3, 0.20e-3)),
    Element("drift", length=0.40, radius=10e-3),
    Element("bpm", "3"),
    Element("drift", length=0.60, radius=10e-3),
    Element("screen"),
)
"""From the gun's exit to the screen, 4.05 m."""


@dataclass(frozen=True, slots=True)
class Beam:
    """The beam that the fields make, without any noise. Lengths in m."""

    bpms: tuple[tuple[float, float], ...]
    """Centre in x, y at each BPM."""
    transmissions: tuple[float, ...]
    """The part of the charge that gets to each BPM."""
    centre: tuple[float, float]
    """On the screen."""
    sizes: tuple[float, float]
    """rms in x and y on the screen, as the camera sees them."""
    tilt: float
    """Covariance of x and y on the screen, m^2."""
    emittance: float
    """sqrt(eps_x eps_y) of the projections on the screen, normalized, m rad."""
    mismatch: float
    """Mean of both planes, see `optics.mismatch`."""
    transmission: float
    """The part of the charge that gets to the screen."""


def emittance_growth(solenoid: float) -> float:
    """The emittance behind the solenoid over its best value: a parabola in the field, in squares.

    Space charge makes the slices of a bunch fan out in phase space, and one field of the solenoid lines them up again:
    emittance compensation (B. Carlsten, NIM A 285 (1989) 313; L. Serafini and J. Rosenzweig, PRE 55 (1997) 7565). The
    shape near the optimum is theirs, the number is ours: no space charge is computed here.

    :param solenoid: kG.
    """
    return math.hypot(1.0, COMPENSATION_GROWTH * (solenoid / BEST_SOLENOID - 1.0))


def propagate(fields: Mapping[str, float]) -> Beam:
    """Send the beam through the line.

    :param fields: of every name in `MAGNETS`, in the unit of its PVs; a missing one counts as off.
    """
    geometric = EMITTANCE / optics.beta_gamma(MOMENTUM)
    gun = optics.beam_matrix((*_GUN_X, geometric), (*_GUN_Y, geometric))
    sigmas = np.broadcast_to(gun, (3, 4, 4))
    centroids = np.broadcast_to(np.array(_GUN_CENTRE), (3, 4))
    passed = 1.0
    bpms: list[tuple[float, float]] = []
    passed_bpms: list[float] = []
    for element in LINE:
        if element.kind == "kick":
            centroids = centroids + _kick(fields, element.name)
        elif element.kind == "bpm":
            centre = _WEIGHTS @ centroids
            bpms.append((float(centre[0]), float(centre[2])))
            passed_bpms.append(passed)
        elif element.length:
            matrix = _matrix(element, fields)
            sigmas = optics.transport(matrix, sigmas)
            centroids = optics.transport_centroid(matrix, centroids, element.offset)
            if element.kind == "solenoid":
                sigmas = sigmas * emittance_growth(fields.get(element.name, 0.0))
        if element.radius:
            passed *= _through(element, centroids, sigmas)
    return _on_screen(centroids, sigmas, passed, tuple(bpms), tuple(passed_bpms))


def _on_screen(
    centroids: Array,
    sigmas: Array,
    passed: float,
    bpms: tuple[tuple[float, float], ...],
    passed_bpms: tuple[float, ...],
) -> Beam:
    centre, sigma = optics.mix(_WEIGHTS, centroids, sigmas)
    planes = [optics.twiss(sigma, plane) for plane in (0, 1)]
    emittance = optics.beta_gamma(MOMENTUM) * math.sqrt(planes[0][2] * planes[1][2])
    sizes = [math.sqrt(float(sigma[at, at]) + RESOLUTION**2) for at in (0, 2)]
    return Beam(
        bpms=bpms,
        transmissions=passed_bpms,
        centre=(float(centre[0]), float(centre[2])),
        sizes=(sizes[0], sizes[1]),
        tilt=float(sigma[0, 2]),
        emittance=emittance,
        mismatch=0.5 * sum(optics.mismatch(plane[:2], DESIGN_TWISS) for plane in planes),
        transmission=passed,
    )


def _matrix(element: Element, fields: Mapping[str, float]) -> Array:
    # kG to T, and for a quadrupole the integrated gradient to a gradient.
    tesla = 0.1 * fields.get(element.name, 0.0)
    if element.kind == "solenoid":
        return optics.solenoid(element.length, tesla / (2.0 * _RIGIDITY))
    if element.kind == "quadrupole":
        return optics.quadrupole(element.length, tesla / element.length / _RIGIDITY)
    return _drift(element.length)


@functools.cache
def _drift(length: float) -> Array:
    return optics.drift(length)


def _kick(fields: Mapping[str, float], number: str) -> Array:
    kick = np.zeros((3, 4))
    for at, name in ((1, f"XCOR:{number}"), (3, f"YCOR:{number}")):
        kick[:, at] = optics.kick_angle(0.1 * fields.get(name, 0.0), _RIGIDITY)
    return kick


def _through(element: Element, centroids: Array, sigmas: Array) -> float:
    centre, sigma = optics.mix(_WEIGHTS, centroids, sigmas)
    at, block = (float(centre[0]), float(centre[2])), sigma[np.ix_((0, 2), (0, 2))]
    if element.kind == "slit":
        return optics.through_rectangle(block, at, element.radius, element.radius)
    return optics.through_circle(block, at, element.radius)
