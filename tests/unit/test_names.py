"""One PV, one name: every spelling of a name, and patterns that names fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from badger_k2eg.control.setpoint import Setpoint, twice
from badger_k2eg.core.model import Limits, PvAddress
from badger_k2eg.core.pv_names import is_pattern, own_name, read_name, record_and_field
from badger_k2eg.core.settings import Settings, matches, parse, resolve
from badger_k2eg.errors import PvNameError

#: Every way to write to the value of X that an IOC takes, over PVAccess or Channel Access.
SPELLINGS = [
    "X", "X.", "X.VAL", "X.{}", "X.VAL{}", "X.VAL{dbnd:{abs:1.5}}", "X.{dbnd:{abs:1}}", "X.[0]", "X.VAL[0:3]",
    "X.VAL[0:0]{}", "X.$", "X.VAL$", "pva://X", "ca://X", "pva://X.VAL", "ca://X.{}",
]  # fmt: skip
#: Names that are what they are.
OTHERS = [
    "X.HIHI", "X.VALUE", "X.val", "X{}", "X[0]", "X{IOC-1}Val", "X[1]", "X{IOC-1}", "X{A.B}", "X:VAL", "XVAL",
]  # fmt: skip


@pytest.mark.parametrize("text", SPELLINGS)
def test_every_spelling_has_the_same_own_name(text: str) -> None:
    assert PvAddress.parse(text).own_name == own_name(text) == "X"


@pytest.mark.parametrize("text", OTHERS)
def test_what_is_another_pv_stays_one(text: str) -> None:
    assert PvAddress.parse(text).own_name == text


@pytest.mark.parametrize(
    ("text", "record", "field"),
    [
        ("XF:28IDC{IOC-Dev}Val.VAL{}", "XF:28IDC{IOC-Dev}Val", ""),
        ("Q[1].{}", "Q[1]", ""),
        ("Q[1].DRVH{}", "Q[1]", "DRVH"),
        ("X.DESC$", "X", "DESC"),
        ("a.b.VAL", "a", "b"),
        ("X.VAL.", "X", ""),
    ],
)
def test_a_name_is_taken_apart(text: str, record: str, field: str) -> None:
    assert record_and_field(text) == (record, field)


@given(st.from_regex(r"[A-Z.{}\[\]$0-9]{1,12}", fullmatch=True))
def test_an_own_name_has_itself_for_its_own_name(text: str) -> None:
    assert own_name(own_name(text)) == own_name(text)


def test_a_name_of_many_dots_takes_no_time_and_no_recursion() -> None:
    assert own_name("X" + "." * 2000) == "X"


@pytest.mark.parametrize(("name", "read"), [("X.VAL", "X"), ("X.", "X"), ("X.{}", "X"), ("X.[0:2]", "X.[0:2]")])
def test_a_filter_reads_something_else(name: str, read: str) -> None:
    assert read_name(name) == read


def permits(name: str, pattern: str) -> bool:
    return Settings(allow=((pattern,),)).allows(name)


# -- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", SPELLINGS)
@pytest.mark.parametrize("name", ["X", "X.VAL", "ca://X.{}"])
def test_a_name_fits_itself_however_both_are_written(name: str, pattern: str) -> None:
    assert matches(name, [pattern])


@pytest.mark.parametrize("pattern", OTHERS)
def test_a_name_of_any_kind_fits_itself_and_not_its_neighbour(pattern: str) -> None:
    assert permits(pattern, pattern) and not permits("X", pattern) and not permits("X1", pattern)


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("Q[1]", "Q[1]", True),
        ("Q1", "Q[1]", False),
        ("Q[1].VAL", "Q[1]", True),
        ("Q[12]", "Q[12]", True),
        ("Q1", "Q[12]", False),
        ("Q[1]", "Q[*]", True),
        ("Q[1]:SP", "Q[?]:*", True),
        ("Q[[]1]", "Q[[]1]", True),
        ("Q[1]", "Q[[]1]", True),
        ("Q1", "Q[1-4]", True),
        ("Q5", "Q[1-4]", False),
        ("Q5", "Q[!1-4]", True),
        ("Qb", "Q[0-9a-f]", True),
        ("Q[1-4]", "Q[1-4]", True),
        ("Q1", "Q[4-1]", False),
        ("Q[4-1]", "Q[4-1]", True),
        ("QX", "Q[A-X]", True),
        ("DEV[QUAD-1]:SP", "DEV[QUAD-1]:*", True),
        ("QUAD:1", "QUAD:*.VAL", True),
        ("QUAD:1.", "QUAD:*.VAL", True),
        ("QUAD:1.HIHI", "QUAD:*.VAL", False),
        ("QUAD:1.HIHI", "QUAD:*", True),
        ("QUAD:1.HIHI", "QUAD:*.HIHI", True),
        ("QUAD:1.HIHI", "QUAD:*.HIHI{}", True),
        ("QUAD:1.LOLO", "QUAD:*.HIHI", False),
        ("QUAD:1", "pva://QUAD:*", True),
        ("ca://QUAD:1", "QUAD:?", True),
        ("X{A}.VAL", "X{?}", True),
        ("X", "", False),
    ],
)
def test_patterns(name: str, pattern: str, fits: bool) -> None:
    assert permits(name, pattern) is fits
    assert matches(name, [pattern]) or not fits, "a restriction is no narrower"


def test_a_name_is_no_pattern() -> None:
    assert [text for text in ("Q*", "Q?", "Q[1-3]", "Q[1]", "Q.VAL", "Q[ab]") if is_pattern(text)] == [
        "Q*", "Q?", "Q[1-3]",
    ]  # fmt: skip


@given(st.text(max_size=12), st.text(max_size=12))
def test_any_text_is_a_pattern(name: str, pattern: str) -> None:
    assert matches(name, [name])
    matches(name, [pattern])


def test_any_pv_fits_its_own_name() -> None:
    @given(st.from_regex(r"[A-Za-z0-9_:;<>\[\]{}()/#@%=&!~^|+.-]{1,15}\$?", fullmatch=True))
    def check(text: str) -> None:
        try:
            address = PvAddress.parse(text)
        except PvNameError:
            return
        assert matches(address, [text]) and matches(address, [address.own_name]) and matches(address, [f"ca://{text}"])

    check()


# -- what stands on them ----------------------------------------------------------------------------------------------


def settings(**options: object) -> Settings:
    return resolve([parse(options, str)])


@pytest.mark.parametrize("text", SPELLINGS)
@pytest.mark.parametrize("written", ["X", "X.VAL", "pva://X", "X.{}"])
def test_restrictions_hold_for_every_spelling(text: str, written: str) -> None:
    made = settings(limits={written: (-1.0, 2.0)}, max_step={written: 0.5}, allow=[written])
    assert (made.limits_of(text), made.step_of(text), made.allows(text)) == (Limits(-1.0, 2.0), 0.5, True)
    assert not made.limits_of("X.HIHI") and made.step_of("X.HIHI") is None and not made.allows("X.HIHI")


def test_brackets_do_not_widen_an_allow_list() -> None:
    made = settings(allow=["Q[1]"], limits={"Q[1]": (0.0, 1.0)})
    assert made.allows("Q[1]") and made.limits_of("Q[1]") == Limits(0.0, 1.0)
    assert not made.allows("Q1")


def test_an_alias_has_both_names() -> None:
    address = replace(PvAddress.parse("pva://ALIAS.VAL"), real="REC")
    assert (address.own_name, address.names, address.name) == ("REC", ("REC", "ALIAS"), "ALIAS.VAL")
    made = settings(limits={"REC": (None, 5.0), "ALIAS": (-5.0, 9.0)}, max_step={"ALIAS": 0.1}, relative=["ALIAS"])
    assert made.limits_of(address) == Limits(-5.0, 5.0) and made.step_of(address) == 0.1
    assert matches(address, made.relative)
    assert settings(allow=["REC"]).allows(address) and settings(allow=["ALIAS"]).allows(address)
    assert not settings(allow=["OTHER"]).allows(address)


@pytest.mark.parametrize("text", SPELLINGS[1:])
def test_two_spellings_are_two_values_for_one_pv(text: str) -> None:
    first, second = (Setpoint(key, 1.0, PvAddress.parse(key)) for key in ("X", text))
    assert twice([first, second]) == {second: "the same PV as X, with two values in one call"}
    assert not twice([first, Setpoint("X.HIHI", 1.0, PvAddress.parse("X.HIHI"))])


def test_whether_anything_depends_on_names() -> None:
    assert not settings(allow="*", limits="*=0..1", max_step="0.5").depend_on_names
    for options in ({"allow": "Q*"}, {"limits": "Q=0..1"}, {"max_step": "Q=1"}, {"relative": "Q"}, {"put_interval": 1}):
        assert settings(**options).depend_on_names


def test_a_set_in_brackets_restricts_and_does_not_permit() -> None:
    """As shells read it a restriction holds for more than as it stands; a permission must not."""
    rules = resolve(
        [parse({"limits": "Q:[12]=0..1", "max_step": "Q:[12]=0.5", "relative": "T:[ab]", "allow": "Q:[12]"}, str)]
    )
    for name in ("Q:1", "Q:2", "Q:[12]", "pva://Q:1.VAL"):
        assert rules.limits_of(name) == Limits(0, 1) and rules.step_of(name) == 0.5
    assert matches("T:a", rules.relative) and not matches("T:c", rules.relative)
    assert rules.limits_of("Q:3") == Limits() and rules.step_of("Q:12") is None
    assert [rules.allows(name) for name in ("Q:[12]", "Q:1", "Q:2")] == [True, False, False]
