"""Procedures for the virtual injector, by the shipped ones.

badger-k2eg ioc virtual_injector &
badger-k2eg procedure examples.virtual_injector.procedures:emittance --param points=9 --plot scan.png
"""

from __future__ import annotations

import numpy as np

from badger_k2eg import Condition, Control, Knob, Observable, Reading, procedures
from badger_k2eg.procedures import Emittance, ScanResult

from .lattice import MAGNETS, MOMENTUM, RESOLUTION


def magnet(name: str, prefix: str) -> Knob:
    """Give a magnet as a knob: it has arrived when its readback is there and its supply is ready."""
    pv = f"{prefix}:{name}"
    return Knob(
        f"{pv}:BCTRL",
        readback=f"{pv}:BACT",
        tolerance=0.002 * MAGNETS[name].span,
        done=f"{pv}:STATMSG",
        done_value="Ready",
        rise=0.5,
        timeout=30.0,
        settle=0.3,
    )


def beam(control: Control, prefix: str = "INJ", stable: float = 1.0, timeout: float = 60.0) -> dict[str, Reading]:
    """Wait until the beam is there, and has been for ``stable`` seconds."""
    conditions = (
        Condition(f"{prefix}:BEAM:PERMIT", equals="OK", reason="permit of the machine protection"),
        Condition(f"{prefix}:BEAM:RATE_ACT", at_least=1.0, reason="beam"),
    )
    return procedures.wait_for_beam(control, conditions, stable=stable, timeout=timeout)


def emittance(
    control: Control,
    prefix: str = "INJ",
    low: float = -0.4,
    high: float = 0.1,
    points: int = 9,
    samples: int = 5,
    plane: str = "y",
    restore: bool = True,
) -> Emittance:
    """Scan the last quadrupole, and find the emittance from the beam's size on the screen, 1 m behind it.

    :param low: kG, the integrated gradient of the first point; the last one is ``high``.
    :param plane: x or y; in y the waist lies within the range of this quadrupole.
    """
    beam(control, prefix)
    return procedures.quadrupole_scan(
        control,
        magnet("QUAD:6", prefix),
        [float(field) for field in np.linspace(low, high, points)],
        Observable(f"{prefix}:OTRS:1:{plane.upper()}RMS", samples=samples, reduce="median"),
        length=0.1,
        drift=1.0,
        momentum=MOMENTUM,
        plane="x" if plane == "x" else "y",
        resolution=RESOLUTION,
        restore=restore,
    )


def spot_map(control: Control, prefix: str = "INJ", points: int = 5, restore: bool = True) -> ScanResult:
    """Map the beam's size over two quadrupoles."""
    grid = {"QUAD:4": np.linspace(-0.2, 0.2, points).tolist(), "QUAD:5": np.linspace(-0.2, 0.2, points).tolist()}
    measures = {size: Observable(f"{prefix}:OTRS:1:{size}", samples=3) for size in ("XRMS", "YRMS")}
    return procedures.scan(control, {name: magnet(name, prefix) for name in grid}, grid, measures, restore=restore)


def degauss(control: Control, name: str = "QUAD:4", prefix: str = "INJ", cycles: int = 3) -> list[float]:
    """Cycle a quadrupole around zero, and put it back."""
    return procedures.degauss(control, magnet(name, prefix), cycles=cycles)
