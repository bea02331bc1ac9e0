"""Misspelt words: which one was meant."""

from __future__ import annotations

import math

import pytest

from badger_k2eg.core.suggestions import close_to, did_you_mean, is_number

RULES = ("MINIMIZE", "MAXIMIZE", "EXPLORE")


@pytest.mark.parametrize(
    ("word", "meant"),
    [("MINIMISE", "MINIMIZE"), ("minimise", "MINIMIZE"), ("Explor", "EXPLORE"), ("SMALL", None), ("", None)],
)
def test_the_word_that_was_meant_whatever_its_case(word: str, meant: str | None) -> None:
    assert close_to(word, RULES) == meant


def test_where_none_is_close_all_are_named() -> None:
    assert did_you_mean("SMALL", RULES, "rules") == "rules are MINIMIZE, MAXIMIZE, EXPLORE"
    assert did_you_mean("maximise", iter(RULES)) == "did you mean 'MAXIMIZE'?"
    assert did_you_mean("x", []) == "known are none"


@pytest.mark.parametrize(("value", "is_one"), [(1, True), (-0.5, True), (math.inf, True), (math.nan, False),
                                               (True, False), ("1", False), (None, False)])  # fmt: skip
def test_what_is_a_number(value: object, is_one: bool) -> None:
    assert is_number(value) is is_one
