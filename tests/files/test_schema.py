"""Values from outside are what annotations say, or refused by their place."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from files.schema import check, check_keys
from files.signatures import required, signature


@dataclass
class Bundle:
    steps: int
    lr: float = 0.1


class Header(TypedDict):
    layer: str
    books: list[tuple[str, int]]
    more: NotRequired[bool]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, int),
        (3, float),
        (2**62, int),
        (True, bool),
        ("a", str),
        ("a", Path),
        (Path("a"), str | Path),
        (None, int | None),
        ([1, 2], Sequence[int]),
        ((1, 2), list[int]),
        ([], Sequence[str]),
        ([[1, 2]], Sequence[tuple[int, int]]),
        ({"a": 1}, Mapping[str, int]),
        ({"steps": 1}, Bundle),
        (Bundle(1), Bundle),
        ({"layer": "a", "books": [["b", 1]]}, Header),
        ("a", Literal["a", "b"]),
        (len, Callable[[Any], int]),
        (object(), Any),
    ],
)
def test_what_fits(value, kind):
    check(value, kind, "x")


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("3", int, "x=3: expected a whole number"),
        (True, int, "x=true: expected a whole number"),
        (1.5, int, r"x=1\.5: expected a whole number"),
        (math.nan, float, "x=nan: expected a number"),
        (math.inf, float | None, "x=inf: expected a number or null"),
        (1e300, float, r"x=1e\+300: expected a number from -1e\+18 to 1e\+18"),
        (10**400, int, "expected a whole number from -1e"),
        (1, bool, "x=1: expected true or false"),
        (None, str, "x=null: expected text"),
        ("abc", Sequence[str], "x=abc: expected a list of text"),
        ({"a": 1}, Sequence[str], "expected a list of text"),
        ([1, "a"], Sequence[int], r"x\[1\]=a: expected a whole number"),
        ([[1]], Sequence[tuple[int, int]], r"x\[0\]=\[1\]: expected a list of"),
        ({"a": "b"}, Mapping[str, int], r"x\.a=b: expected a whole number"),
        ({}, Bundle, r"x\.steps is missing"),
        ({"steps": 1, "lr": "fast"}, Bundle, r"x\.lr=fast: expected a number"),
        ({"steps": 1, "size": 1}, Bundle | None, r"x\.size=1: expected nothing of this name"),
        ({"layer": "a", "books": [["b", "c"]]}, Header, r"x\.books\[0\]\[1\]=c: expected a whole"),
        ("c", Literal["a", "b"], "x=c: expected one of a, b"),
        (3, Bundle, "x=3: expected Bundle"),
        (object(), str, "x=object: expected text"),
        ("a" * 1000, int, r"x=a{60}\.\.\.: expected"),
    ],
)
def test_what_does_not_fit_is_named(value, kind, message):
    with pytest.raises(ValueError, match=message):
        check(value, kind, "x")


def test_an_unknown_key_is_named_with_the_one_that_is_near():
    check_keys(["steps"], ["steps", "lr"], "Search")
    with pytest.raises(ValueError, match=r"a\.stepz: Search has no such setting; did you mean"):
        check_keys(["stepz"], ["steps", "lr"], "Search", "a.")
    with pytest.raises(ValueError, match="Search has no such setting; it has steps, lr"):
        check_keys(["nonsense"], ["steps", "lr"], "Search")


class Base:
    def __init__(self, rows: int, *, size: float = 1.0):
        pass


class Own(Base):
    def __init__(self, name: str, **options):
        super().__init__(**options)


def test_a_class_takes_what_its_bases_take_of_what_it_passes_on():
    assert signature(Own) == ({"rows": int, "size": float, "name": str}, False)
    assert signature(Bundle) == ({"steps": int, "lr": float}, False)
    assert required(Base) == ["rows"]


def test_a_function_may_take_anything():
    def blank(text: str, **sizes: int):
        pass

    assert signature(blank) == ({"text": str}, True)
