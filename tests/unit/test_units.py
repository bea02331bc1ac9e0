"""V4: what control systems write into EGU fields never crashes and is never misread; a user's unit must exist."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from badger_k2eg.core import units
from badger_k2eg.core.units import Quantity, parse_unit, text_of, unit
from badger_k2eg.errors import SettingsError, UnknownUnit

READ_AS = {
    "Amps": "ampere", "amps": "ampere", "AMPS": "ampere", "A": "ampere", "mA": "milliampere",
    "milliamps": "milliampere",
    "Counts": "count", "COUNTS": "count", "cnts": "count", "Torr": "torr", "mTorr": "millitorr", "pps": "hertz",
    "kV": "kilovolt", "KV": "kilovolt", "Volts": "volt", "mm": "millimeter", "um": "micrometer", "µm": "micrometer",
    "microns": "micrometer", "mrad": "milliradian", "deg": "degree", "Deg": "degree", "degC": "degree_Celsius",
    "C": "degree_Celsius", "°C": "degree_Celsius", "deg C": "degree_Celsius", "DegF": "degree_Fahrenheit",
    "F": "degree_Fahrenheit", "pC": "picocoulomb", "nC": "nanocoulomb", "uJ": "microjoule", "%": "percent",
    "kG": "kiloGauss", "kG/m": "kiloGauss / meter", "kG-m": "kiloGauss * meter", "T/m": "tesla / meter",
    "m/s2": "meter / second ** 2", "m-1": "1 / meter", "1/m^2": "1 / meter ** 2", "s⁻¹": "1 / second",
    "MeV/c": "megaelectron_volt / speed_of_light", "GeV": "gigaelectron_volt", "gpm": "gallon / minute",
    "mm-mrad": "millimeter * milliradian", "mm mrad": "millimeter * milliradian", "mbar": "millibar",
    "ms": "millisecond",
    "kOhm": "kiloohm", "min": "minute", "rpm": "revolutions_per_minute", "": "dimensionless", "none": "dimensionless",
    "N/A": "dimensionless", " A ": "ampere",
}  # fmt: skip

# In what pint makes of them: attograms, degree-siemens, newton per ampere times ..., or nothing at all.
OPAQUE = [
    "arb", "BITS", "NUM", "egu", "DegS", "degS", "deg S", "a.u.", "S", "B", "H", "MA", "MM", "KG", "uS", "Tm", "Nm",
    "foo/s", "1e6 A", "A.", ".A", "A//s", "A^99", "A9", "#", "nC/pulse", "dBm", "psig", "cm H2O", "_", "x" * 300,
    "A B", "ps/", "kkG", "mmA", "*", "m**", "Ångström", "日本",
]  # fmt: skip


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "units.txt"
    monkeypatch.setenv(units.FILE_VARIABLE, str(path))
    yield path


@pytest.mark.parametrize(("text", "means"), READ_AS.items())
def test_a_known_text_is_read(text: str, means: str) -> None:
    assert str(parse_unit(text)) == means


@pytest.mark.parametrize("text", OPAQUE)
def test_an_unknown_text_is_an_opaque_unit(text: str) -> None:
    one = parse_unit(text)
    assert one == parse_unit(text) and one != parse_unit("") and text_of(one) == text
    assert (Quantity(2.0, one) + Quantity(3.0, one)).magnitude == 5.0
    for other in ("A", "m", "s", "", "deg", "V"):
        with pytest.raises(TypeError):
            Quantity(1.0, one).to(parse_unit(other))


def test_opaque_units_differ_from_each_other_and_can_be_part_of_a_product() -> None:
    ratio = parse_unit("arb") / parse_unit("s")
    assert parse_unit("arb") != parse_unit("egu")
    assert parse_unit(text_of(ratio)) == ratio and ratio * parse_unit("s") == parse_unit("arb")
    assert parse_unit(text_of(parse_unit("a b") * parse_unit("A"))) == parse_unit("a b") * parse_unit("A")


@given(st.text(max_size=12))
def test_no_text_crashes(text: str) -> None:
    assert parse_unit(text) == parse_unit(text)


@given(st.text(st.sampled_from("AmVsgTGkMuC/*-.^2 "), max_size=6))
def test_what_is_read_is_written_so_that_it_is_read_again(text: str) -> None:
    assert parse_unit(text_of(parse_unit(text))) == parse_unit(text)


def test_gauss_is_of_the_same_system_as_tesla() -> None:
    assert Quantity(10.0, "kG").to("tesla").magnitude == pytest.approx(1.0)


def test_units_by_name_with_prefixes() -> None:
    assert (3 * unit.ampere).to(unit.milliampere).magnitude == 3000.0
    assert unit.mm == parse_unit("mm") and unit("kG/m") == parse_unit("kG/m")
    assert Quantity(5, "mA") == 0.005 * unit.A


@pytest.mark.parametrize(("text", "hint"), [("ampers", "amp"), ("Tesls", "esla"), ("furlong", units.FILE_VARIABLE)])
def test_a_users_unit_must_exist(text: str, hint: str) -> None:
    with pytest.raises(UnknownUnit, match=text) as caught:
        units.named(text)
    assert hint in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UnknownUnit):
        Quantity(1, text)
    with pytest.raises(AttributeError, match=text):
        getattr(unit, text)


def test_a_quantity_of_another_registry_is_taken_by_its_unit() -> None:
    import pint

    foreign = pint.UnitRegistry().Quantity(5.0, "milliampere")
    assert Quantity(foreign).to(unit.ampere).magnitude == pytest.approx(0.005)


def test_a_file_adds_texts(own_file: Path) -> None:
    own_file.write_text("# of this site\nAmpTurns = ampere * turn\nS = second  # ours\n", encoding="utf-8")
    assert str(parse_unit("AmpTurns")) == "ampere * turn" and str(parse_unit("S")) == "second"
    assert units.named("AmpTurns") == parse_unit("AmpTurns")


@pytest.mark.parametrize(
    ("line", "says"), [("Gs", "TEXT = UNIT"), ("= A", "TEXT = UNIT"), ("X = furlong", "furlong"), ("X =", "")]
)
def test_a_wrong_line_of_the_file_is_named(own_file: Path, line: str, says: str) -> None:
    own_file.write_text(f"\n{line}\n", encoding="utf-8")
    if line == "X =":
        assert str(parse_unit("X")) == "dimensionless"
        return
    with pytest.raises(SettingsError, match="line 2") as caught:
        parse_unit("A")
    assert says in str(caught.value) and str(own_file) in str(caught.value)


def test_a_file_that_is_not_there_is_named(own_file: Path) -> None:
    with pytest.raises(SettingsError, match=units.FILE_VARIABLE):
        parse_unit("A")


def test_pint_is_imported_only_for_a_quantity() -> None:
    code = (
        "import sys\n"
        "from badger_k2eg.control import Control\n"
        "from badger_k2eg.core.model import Reading\n"
        "one, two = Reading(2.0), Reading(3.0)\n"
        "assert (one + two).value == 5.0 and 'pint' not in sys.modules\n"
        "assert str(Reading(2.0, units='A').quantity) == '2.0 ampere' and 'pint' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=150)
