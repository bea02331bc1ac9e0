"""EGU texts to names of units: the table of what control systems write, and the grammar of products and quotients.

A text is understood only if every word of it is in the table. pint itself reads ``amps`` as attometres per second,
``pps`` as points and ``C`` as coulomb: nothing is left to its guess.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

import platformdirs

from ..base_errors import SettingsError, UnknownUnit
from ..suggestions import did_you_mean

#: Names a file of further texts, in place of ``units.txt`` in the user's configuration folder.
FILE_VARIABLE = "BADGER_K2EG_UNITS"

#: A unit as powers of pint's names; empty means dimensionless.
Powers = tuple[tuple[str, float], ...]

_PREFIXES = {
    "f": "femto", "p": "pico", "n": "nano", "u": "micro", "µ": "micro", "μ": "micro", "m": "milli", "c": "centi",
    "h": "hecto", "k": "kilo", "M": "mega", "G": "giga", "T": "tera",
}  # fmt: skip

# Symbol -> pint's name, and the prefixes in use with it. Ambiguous ones are missing: MA (mA in capitals?), uS
# (microseconds?), KG (kilogram or kilogauss?), S, B, H.
_SYMBOLS = {
    "A": ("ampere", "fpnuµμmk"), "V": ("volt", "npuµμmkM"), "W": ("watt", "npuµμmkMG"), "J": ("joule", "fpnuµμmkM"),
    "s": ("second", "fpnuµμm"), "Hz": ("hertz", "mkMGT"), "m": ("meter", "fpnuµμmck"), "g": ("gram", "nuµμmk"),
    "K": ("kelvin", "nuµμm"), "N": ("newton", "nuµμmkM"), "Pa": ("pascal", "nuµμmhkMG"), "bar": ("bar", "nuµμm"),
    "T": ("tesla", "nuµμm"), "G": ("Gauss", "uµμmk"), "eV": ("electron_volt", "mkMGT"), "rad": ("radian", "nuµμm"),
    "sr": ("steradian", ""), "deg": ("degree", "m"), "°": ("degree", ""), "degC": ("degree_Celsius", ""),
    "°C": ("degree_Celsius", ""), "degF": ("degree_Fahrenheit", ""), "°F": ("degree_Fahrenheit", ""),
    "%": ("percent", ""), "ppm": ("ppm", ""), "Ohm": ("ohm", "mkM"), "Ω": ("ohm", "mkM"),
    "Wb": ("weber", "uµμm"), "Sv": ("sievert", "nuµμm"), "Gy": ("gray", "nuµμmk"), "Bq": ("becquerel", "kMG"),
    "L": ("liter", "uµμm"), "l": ("liter", "uµμm"), "min": ("minute", ""), "h": ("hour", ""), "hr": ("hour", ""),
    "in": ("inch", ""), "ft": ("foot", ""), "psi": ("psi", ""), "atm": ("atmosphere", ""), "gal": ("gallon", ""),
    "rpm": ("revolutions_per_minute", ""), "mol": ("mole", "uµμm"), "rem": ("rem", "uµμm"), "cd": ("candela", ""),
    "lm": ("lumen", ""), "lx": ("lux", ""), "d": ("day", ""),
}  # fmt: skip
# Only with a prefix: C and F alone are temperatures, H may be anything.
_ONLY_PREFIXED = {"C": ("coulomb", "fpnuµμm"), "F": ("farad", "fpnuµμm"), "H": ("henry", "nuµμm")}

# Full words, in any case; with full prefixes if the second item is true.
_WORDS = {
    "ampere": ("ampere amperes amp amps", True), "volt": ("volt volts", True), "watt": ("watt watts", True),
    "joule": ("joule joules", True), "second": ("second seconds sec secs", True), "hertz": ("hertz", True),
    "meter": ("meter meters metre metres", True), "gram": ("gram grams", True), "kelvin": ("kelvin kelvins", True),
    "newton": ("newton newtons", True), "pascal": ("pascal pascals", True), "torr": ("torr", True),
    "tesla": ("tesla teslas", True), "Gauss": ("gauss", True), "radian": ("radian radians", True),
    "coulomb": ("coulomb coulombs", True), "farad": ("farad farads", True), "henry": ("henry henrys henries", True),
    "ohm": ("ohm ohms", True), "electron_volt": ("electron_volt electronvolt electronvolts", True),
    "siemens": ("siemens", True), "liter": ("liter liters litre litres", True), "bar": ("bar bars", True),
    "degree": ("degree degrees", False), "percent": ("percent pct", False), "steradian": ("steradian", False),
    "count": ("count counts cnt cnts cts", False), "minute": ("minute minutes mins", False),
    "hour": ("hour hours hrs", False), "day": ("day days", False), "inch": ("inch inches", False),
    "foot": ("foot feet", False), "turn": ("turn turns", False), "gallon": ("gallon gallons", False),
    "degree_Celsius": ("degree_celsius celsius", False), "kilogram": ("kilograms", False),
    "degree_Fahrenheit": ("degree_fahrenheit fahrenheit", False), "atmosphere": ("standard_atmosphere", False),
    "delta_degree_Celsius": ("delta_degree_celsius", False), "speed_of_light": ("speed_of_light", False),
    "delta_degree_Fahrenheit": ("delta_degree_fahrenheit", False), "psi": ("pound_force_per_square_inch", False),
    "revolutions_per_minute": ("revolutions_per_minute", False), "sievert": ("sievert sieverts", True),
    "gray": ("gray", True), "becquerel": ("becquerel", True), "weber": ("weber", True), "mole": ("mole moles", True),
    "candela": ("candela", False), "lumen": ("lumen", False), "lux": ("lux", False),
}  # fmt: skip

# Whole texts that the grammar would not read, or would misread.
_TEXTS = {
    "": "", "-": "", "none": "", "None": "", "NONE": "", "N/A": "", "n/a": "", "NA": "", "unitless": "",
    "dimensionless": "", "C": "degree_Celsius", "deg C": "degree_Celsius", "Deg C": "degree_Celsius",
    "DegC": "degree_Celsius", "DEGC": "degree_Celsius", "DEG C": "degree_Celsius", "F": "degree_Fahrenheit",
    "deg F": "degree_Fahrenheit", "DegF": "degree_Fahrenheit", "DEGF": "degree_Fahrenheit", "degK": "kelvin",
    "deg K": "kelvin", "Deg": "degree", "DEG": "degree", "KV": "kilovolt", "KW": "kilowatt", "HZ": "hertz",
    "KHZ": "kilohertz", "KHz": "kilohertz", "kHZ": "kilohertz", "GHZ": "gigahertz", "Mhz": "megahertz", "hz": "hertz",
    "usec": "microsecond", "msec": "millisecond", "nsec": "nanosecond", "psec": "picosecond", "micron": "micrometer",
    "microns": "micrometer", "Microns": "micrometer", "MICRONS": "micrometer", "micro-m": "micrometer",
    "mTorr": "millitorr", "uTorr": "microtorr", "nTorr": "nanotorr", "Gs": "Gauss", "kGs": "kiloGauss",
    "pps": "hertz", "PPS": "hertz", "pulses/s": "hertz", "cps": "count / second", "gpm": "gallon / minute",
    "GPM": "gallon / minute", "lpm": "liter / minute", "LPM": "liter / minute", "PSI": "psi", "RPM": "rpm",
    "PPM": "ppm", "mm mrad": "millimeter * milliradian", "um rad": "micrometer * radian", "kOhms": "kiloohm",
    "eV/c": "electron_volt / speed_of_light", "GeV/c": "gigaelectron_volt / speed_of_light",
    "MeV/c": "megaelectron_volt / speed_of_light", "keV/c": "kiloelectron_volt / speed_of_light",
    "MeV/c2": "megaelectron_volt / speed_of_light ** 2", "MeV/c^2": "megaelectron_volt / speed_of_light ** 2",
    "GeV/c2": "gigaelectron_volt / speed_of_light ** 2", "GeV/c^2": "gigaelectron_volt / speed_of_light ** 2",
}  # fmt: skip

_SUPERSCRIPTS = {"¹": 1.0, "²": 2.0, "³": 3.0}
# \w includes superscripts.
_TERM = re.compile(r"([^\W\d¹²³]+|[%°][CF]?|1)(?:\*\*(-?\d+\.\d+)|(?:\*\*|\^)?(-[1-4]|[2-4])|(⁻?[¹²³]))?(?!\d)")
_SEPARATOR = re.compile(r"[*·/]|[.-](?=[^\W\d])")


def read(text: str) -> Powers | None:
    """Return the unit of a text; None if a word of it is unknown.

    :raises SettingsError: for an invalid file of unit texts.
    """
    text = text.strip()
    added = _added()
    if text in added:
        return added[text]
    return _read(text)


@lru_cache(maxsize=4096)
def _read(text: str) -> Powers | None:
    if (known := _TEXTS.get(text)) is not None:
        return _expression(known)
    return _expression(text)


def named(text: str) -> Powers:
    """Return the unit of a name given by a user.

    :raises UnknownUnit: if it does not exist, suggesting the closest.
    """
    if (powers := read(text)) is None:
        known = [*_symbols(), *_words(), *_TEXTS, *_added()]
        raise UnknownUnit(f"there is no unit {text!r}; {did_you_mean(text, known) if _close(text, known) else _HINT}")
    return powers


_HINT = f"write it like A, mA, ampere, kG/m, MeV/c, or add it to the file that {FILE_VARIABLE} names"


def _close(text: str, known: list[str]) -> bool:
    return did_you_mean(text, known).startswith("did")


def _expression(text: str) -> Powers | None:
    """Return a product or quotient of known words: ``kG/m``, ``mm-mrad``, ``m/s2``, ``1/s``, ``A * m ** 2``."""
    text = re.sub(r"\s*(\*\*|[*/·^])\s*", r"\1", text)
    if not text:
        return ()
    powers: dict[str, float] = {}
    sign, position = 1.0, 0
    while True:
        term = _TERM.match(text, position)
        if term is None:
            return None
        word, broken, whole, raised = term.groups()
        name = None if word == "1" else _name(word)
        if name is None and (word != "1" or term.end() != term.end(1)):
            return None
        if name is not None:
            powers[name] = powers.get(name, 0.0) + sign * _exponent(whole, broken, raised)
        position = term.end()
        if position == len(text):
            return tuple((name, power) for name, power in powers.items() if power)
        separator = _SEPARATOR.match(text, position)
        if separator is None:
            return None
        sign = -1.0 if separator[0] == "/" else 1.0
        position = separator.end()


def _exponent(whole: str | None, broken: str | None, raised: str | None) -> float:
    if raised:
        return _SUPERSCRIPTS[raised[-1]] * (-1.0 if raised[0] == "⁻" else 1.0)
    return float(whole or broken or 1.0)


def _name(word: str) -> str | None:
    return _symbols().get(word) or _words().get(word.casefold())


@lru_cache(maxsize=1)
def _symbols() -> dict[str, str]:
    """Return every symbol, with each of its prefixes."""
    names = {symbol: name for symbol, (name, _) in _SYMBOLS.items()}
    for symbol, (name, prefixes) in (_SYMBOLS | _ONLY_PREFIXED).items():
        names.update({prefix + symbol: _PREFIXES[prefix] + name for prefix in prefixes})
    return names


@lru_cache(maxsize=1)
def _words() -> dict[str, str]:
    """Return every word, in lower case."""
    names = {}
    for name, (spellings, prefixed) in _WORDS.items():
        for spelling in spellings.split():
            names[spelling] = name
            if prefixed:
                names.update({prefix + spelling: prefix + name for prefix in _PREFIXES.values()})
    return names


# -- the site's own texts ---------------------------------------------------------------------------------------------


def _added() -> dict[str, Powers]:
    path = os.environ.get(FILE_VARIABLE)
    if path:
        return _file(Path(path), True)
    return _file(_usual_file(), False)


@lru_cache(maxsize=1)
def _usual_file() -> Path:
    return platformdirs.user_config_path("badger-k2eg") / "units.txt"


@lru_cache(maxsize=16)
def _file(path: Path, required: bool) -> dict[str, Powers]:
    """Return the units of the lines ``TEXT = UNIT`` of a file; ``#`` begins a comment."""
    if not path.is_file():
        if required:
            raise SettingsError(f"environment variable {FILE_VARIABLE}: {path}: no such file")
        return {}
    added: dict[str, Powers] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    for number, line in enumerate(lines, 1):
        text, equals, unit = (part.strip() for part in line.partition("#")[0].partition("="))
        if not text and not equals:
            continue
        if not equals or not text:
            raise SettingsError(f"{path}, line {number}: write TEXT = UNIT, like: Ampere-Turns = ampere * turn")
        if (powers := _read(unit)) is None:
            raise SettingsError(f"{path}, line {number}: there is no unit {unit!r}; {_HINT}")
        added[text] = powers
    return added
