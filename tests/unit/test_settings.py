"""Where an option comes from, which source wins, and that restrictions only tighten."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from badger_k2eg.core import settings
from badger_k2eg.core.model import Limits
from badger_k2eg.core.settings import Options, Settings, from_environment, from_file, load, matches, parse, resolve
from badger_k2eg.errors import SettingsError

Place = Callable[..., None]


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("BADGER_K2EG_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(settings, "SYSTEM_POLICY", tmp_path / "etc" / "policy.ini")


def write(path: Path, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {value}" for name, value in options.items()]
    path.write_text("[badger_k2eg]\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str, str], dict[str, Any]]:
    """Put an option into a source; what belongs among the keywords is given back."""

    def put(source: str, name: str, text: str) -> dict[str, Any]:
        if source == "keyword":
            return {name: text}
        if source == "environment":
            monkeypatch.setenv(f"BADGER_K2EG_{name.upper()}", text)
        elif source == "ini":
            write(tmp_path / "config" / "badger-k2eg" / "badger-k2eg.ini", **{name: text})
        elif source == "policy":
            write(tmp_path / "etc" / "policy.ini", **{name: text})
        elif source == "further policy":
            monkeypatch.setenv("BADGER_K2EG_POLICY", str(write(tmp_path / "further.ini", **{name: text})))
        return {}

    return put


# -- defaults and strength --------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_contract() -> None:
    loaded = load()
    assert loaded == Settings()
    assert (loaded.read_only, loaded.parallel, loaded.timeout, loaded.put_attempts) == (False, False, 3.0, 2)
    assert (loaded.retry_delay, loaded.on_read_error, loaded.reject_severity) == (1.0, "raise", "invalid")
    assert load(defaults={"timeout": 12.0}).timeout == 12.0


STRENGTH = ["keyword", "environment", "ini"]


@pytest.mark.parametrize("given_in", [c for n in (1, 2, 3) for c in itertools.combinations(STRENGTH, n)], ids="+".join)
def test_the_strongest_source_wins(given_in: tuple[str, ...], place: Callable[..., dict[str, Any]]) -> None:
    keywords: dict[str, Any] = {}
    for source in given_in:
        keywords |= place(source, "timeout", str(1.0 + STRENGTH.index(source)))
    assert load(keywords, {"timeout": 12.0}).timeout == 1.0 + STRENGTH.index(given_in[0])


def test_what_is_empty_or_none_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BADGER_K2EG_TIMEOUT", "")
    monkeypatch.setenv("BADGER_K2EG_READ_ONLY", "")
    assert load({"timeout": None, "read_only": None}) == Settings()


# -- restrictions only tighten ----------------------------------------------------------------------------------------

SOURCES = ["keyword", "environment", "ini", "policy", "further policy"]
LOOSE_AND_STRICT = {
    "read_only": ("false", "true", lambda s: s.read_only, True),
    "put_interval": ("0.1", "2", lambda s: s.put_interval, 2.0),
    "put_rate": ("50", "3", lambda s: s.put_rate, 3.0),
    "max_failures": ("9", "2", lambda s: s.max_failures, 2),
    "max_step": ("5", "0.5", lambda s: s.step_of("QUAD:1"), 0.5),
    "limits": ("-10..10", "-1..2", lambda s: s.limits_of("QUAD:1"), Limits(-1.0, 2.0)),
    "allow": ("QUAD:*, SOL:*", "QUAD:1", lambda s: [s.allows(n) for n in ("QUAD:1", "QUAD:2", "SOL:1")], [1, 0, 0]),
}


@pytest.mark.parametrize("option", LOOSE_AND_STRICT)
@pytest.mark.parametrize(("strict", "loose"), list(itertools.permutations(SOURCES, 2)), ids=str)
def test_the_strictest_source_wins_whichever_it_is(
    option: str, strict: str, loose: str, place: Callable[..., dict[str, Any]]
) -> None:
    weak_text, strong_text, look, expected = LOOSE_AND_STRICT[option]
    keywords = place(strict, option, strong_text) | place(loose, option, weak_text)
    assert look(load(keywords)) == expected


def test_limits_of_several_sources_leave_what_all_allow(place: Callable[..., dict[str, Any]]) -> None:
    place("environment", "limits", "*=-5..3")
    place("policy", "limits", "QUAD:*=-1..")
    loaded = load({"limits": {"QUAD:1": (None, 2.0)}})
    assert loaded.limits_of("QUAD:1") == Limits(-1.0, 2.0)
    assert loaded.limits_of("QUAD:2") == Limits(-1.0, 3.0) and loaded.limits_of("SOL:1") == Limits(-5.0, 3.0)


def test_an_empty_allow_list_allows_nothing() -> None:
    assert not load({"allow": []}).allows("X") and not load({"allow": ["Y"]}).allows("X") and load().allows("X")


def test_no_default_switches_off_what_somebody_switched_on(place: Callable[..., dict[str, Any]]) -> None:
    place("policy", "read_only", "yes")
    assert load({"read_only": False}).read_only
    assert load({"read_only": None}).read_only


fragments = st.fixed_dictionaries(
    {},
    optional={
        "read_only": st.booleans(),
        "put_interval": st.floats(0, 10),
        "put_rate": st.floats(0.1, 100),
        "max_failures": st.integers(1, 9),
        "max_step": st.dictionaries(st.sampled_from(["*", "A*", "B"]), st.floats(0.1, 9), max_size=2),
        "allow": st.lists(st.sampled_from(["*", "A*", "B", "AB"]), max_size=2),
        "limits": st.dictionaries(
            st.sampled_from(["*", "A*"]), st.tuples(st.floats(-9, 0), st.floats(0, 9)), max_size=2
        ),
    },
)


@given(st.lists(fragments, max_size=4), fragments)
def test_one_more_source_never_loosens_anything(given: list[dict[str, Any]], more: dict[str, Any]) -> None:
    sources = [parse(each, str) for each in given]
    before = resolve(sources)
    for after in (resolve([*sources, parse(more, str)]), resolve([parse(more, str), *sources])):
        assert after.read_only >= before.read_only and after.put_interval >= before.put_interval
        assert before.put_rate is None or after.put_rate <= before.put_rate
        assert before.max_failures is None or after.max_failures <= before.max_failures
        for name in ("A", "AB", "B", "C"):
            assert before.allows(name) or not after.allows(name)
            assert before.step_of(name) is None or after.step_of(name) <= before.step_of(name)
            wide, tight = before.limits_of(name), after.limits_of(name)
            assert all(value in wide for value in (-9.0, -1.0, 0.0, 1.0, 9.0) if value in tight)


# -- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("QUAD:1", "QUAD:?", True),
        ("QUAD:1", "quad:*", False),
        ("QUAD:1", "UAD:1", False),
        ("QUAD:1.VAL", "QUAD:1", True),
        ("QUAD:1", "QUAD:1.VAL", True),
        ("QUAD:1.DRVH", "QUAD:1", False),
        ("QUAD:12", "QUAD:[0-9]", False),
    ],
)
def test_patterns(name: str, pattern: str, fits: bool) -> None:
    assert matches(name, [pattern]) is fits


# -- wrong names and values -------------------------------------------------------------------------------------------

WRONG = [
    ("timeot", "1", "did you mean 'timeout'"),
    ("nonsense", "1", "options are read_only"),
    ("timeout", "0", "positive number of seconds, or -1"),
    ("timeout", "-2", "positive number of seconds, or -1"),
    ("timeout", "nan", "positive number of seconds, or -1"),
    ("timeout", "soon", "number"),
    ("put_attempts", "0", "greater than or equal to 1"),
    ("put_attempts", "1.5", "integer"),
    ("retry_delay", "-1", "greater than or equal to 0"),
    ("retry_delay", "inf", "finite"),
    ("read_only", "perhaps", "boolean"),
    ("on_read_error", "ignore", "'raise' or 'nan'"),
    ("reject_severity", "INVALID", "'none', 'minor', 'major' or 'invalid'"),
    ("max_step", "QUAD:*=0", "greater than 0"),
    ("max_step", "QUAD:*=nan", "number"),
    ("max_step", "QUAD:*=wide", "number"),
    ("max_step", "QUAD:*=1 SOL:*=2", "write a comma between two patterns"),
    ("limits", "QUAD:*=0..1 SOL:*=0..2", "write a comma between two patterns"),
    ("allow", "QUAD:* SOL:*", "write a comma between two patterns"),
    ("relative", "CMD:1 CMD:2", "write a comma between two patterns"),
    ("limits", "QUAD:*=5", "LOW..HIGH"),
    ("limits", "QUAD:*=5..1", "reversed"),
    ("limits", "QUAD:*=a..b", "two numbers"),
    ("limits", "QUAD:*=nan..1", "two numbers"),
    ("limits", "QUAD:*=0..nan", "two numbers"),
    ("limits", "QUAD:*=nan..", "two numbers"),
    ("put_rate", "0", "greater than 0"),
    ("put_rate", "nan", "greater than 0"),
    ("put_interval", "-0.5", "greater than or equal to 0"),
    ("max_failures", "0", "greater than or equal to 1"),
]


@pytest.mark.parametrize(("name", "text", "reason"), WRONG, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("source", ["keyword", "environment", "ini"])
def test_a_wrong_name_or_value_names_its_source_and_option(
    source: str, name: str, text: str, reason: str, place: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    keywords = place(source, name, text)
    with pytest.raises(SettingsError) as caught:
        load(keywords)
    place_named = {
        "keyword": f"option {name}",
        "environment": f"environment variable BADGER_K2EG_{name.upper()}",
        "ini": f"badger-k2eg.ini [badger_k2eg] {name}",
    }[source]
    message = str(caught.value)
    assert place_named in message and reason in message and "\n" not in message, message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("source", ["policy", "further policy"])
def test_a_policy_file_holds_restrictions_only(source: str, place: Callable[..., dict[str, Any]]) -> None:
    place(source, "timeout", "9")
    with pytest.raises(SettingsError, match=r"timeout: a policy file holds restrictions only"):
        load()


def test_a_wrong_keyword_value_of_another_kind() -> None:
    for wrong in ({"allow": 5}, {"limits": {"A": 3}}, {"limits": [1, 2]}, {"max_step": "x"}, {"wait": {1: 2}}):
        with pytest.raises(SettingsError, match=f"option {next(iter(wrong))}"):
            load(wrong)


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_named_file_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BADGER_K2EG_CONFIG", str(tmp_path / "nowhere.ini"))
    with pytest.raises(SettingsError, match=r"nowhere\.ini: no such file"):
        load()
    monkeypatch.delenv("BADGER_K2EG_CONFIG")
    monkeypatch.setenv("BADGER_K2EG_POLICY", str(tmp_path / "no-policy.ini"))
    with pytest.raises(SettingsError, match=r"no-policy\.ini: no such file"):
        load()


def test_a_named_file_takes_the_place_of_the_users_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: Callable[..., dict[str, Any]]
) -> None:
    place("ini", "timeout", "9")
    monkeypatch.setenv("BADGER_K2EG_CONFIG", str(write(tmp_path / "mine.ini", timeout="7", allow="A%B, C")))
    loaded = load()
    assert loaded.timeout == 7.0 and loaded.allow == (("A%B", "C"),)


@pytest.mark.parametrize("content", [b"timeout = 3\n", b"[badger_k2eg\ntimeout=3", b"[badger_k2eg]\n\xff=1\n"])
def test_a_file_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.ini").write_bytes(content)
    with pytest.raises(SettingsError, match=r"broken\.ini"):
        from_file(tmp_path / "broken.ini", required=True)


def test_words_may_stand_each_on_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "site.ini"
    file.write_text("[badger_k2eg]\nallow =\n  QUAD:*\n  SOL:1,\n\n  SOL:2\nmax_step = QUAD:1=0.5\n  SOL:*=2\n")
    assert from_file(file, required=True) == Options(
        allow=("QUAD:*", "SOL:1", "SOL:2"), max_step={"QUAD:1": 0.5, "SOL:*": 2.0}
    )


def test_the_environment_of_others_is_not_ours() -> None:
    environ = {"BADGER_K2EG_TIMEOUT": "2", "BADGER_TIMEOUT": "x", "K2EG_X": "y", "BADGER_K2EG_POLICY": "f"}
    assert from_environment(environ) == Options(timeout=2.0)
    with pytest.raises(SettingsError, match="BADGER_K2EG_TIMEOUTS"):
        from_environment({"BADGER_K2EG_TIMEOUTS": "2"})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().read_only = False  # type: ignore[misc]
