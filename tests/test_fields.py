"""Typed reading of JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest

from tofe_export.fields import Fields, brief


def test_reads_every_kind() -> None:
    data = Fields(
        {
            "s": "x",
            "b": True,
            "i": 3,
            "f": 2,
            "n": None,
            "l": [1, 2],
            "t": ["a"],
            "d": {"k": 0.5},
            "c": [{"k": 1}],
        },
        "top",
    )
    assert data.text("s", ("x", "y")) == "x"
    assert data.flag("b") is True
    assert data.integer("i", least=3) == 3
    assert data.number("f") == 2.0
    assert data.optional("n", data.number) is None
    assert data.optional("f", data.number) == 2.0
    assert data.integers("l") == (1, 2)
    assert data.numbers("l") == (1.0, 2.0)
    assert data.texts("t") == ("a",)
    assert data.child("d").number("k") == 0.5
    assert [child.integer("k") for child in data.children("c")] == [1]
    assert data.mapping("d") == {"k": 0.5}
    assert data.has("n")
    assert not data.has("k")
    data.done()


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda data: data.text("none"), "top.none: expected this key, found none"),
        (lambda data: data.text("one"), "top.one: expected a string, found 1"),
        (lambda data: data.text("s", ("a", "b")), "top.s: expected one of a, b, found 'x'"),
        (lambda data: data.integer("true"), "top.true: expected an integer of at least 0, found True"),
        (lambda data: data.integer("half"), "top.half: expected an integer of at least 0, found 0.5"),
        (lambda data: data.integer("one", least=2), "top.one: expected an integer of at least 2, found 1"),
        (lambda data: data.number("nan"), "top.nan: expected a finite number, found nan"),
        (lambda data: data.flag("one"), "top.one: expected true or false, found 1"),
        (lambda data: data.integers("mixed"), "top.mixed[1]: expected an integer of at least 0, found 'x'"),
        (lambda data: data.integers("s"), "top.s: expected a list, found 'x'"),
        (lambda data: data.child("s"), "top.s: expected an object, found 'x'"),
        (lambda data: data.children("mixed"), "top.mixed[0]: expected an object, found 1"),
        (lambda data: data.mapping("s"), "top.s: expected an object, found 'x'"),
        (lambda data: data.done(), "top: unknown key 'one', 's', 'true', 'half', 'nan', 'mixed'"),
    ],
)
def test_complaints_name_the_place(read: Callable[[Fields], object], message: str) -> None:
    values = {"one": 1, "s": "x", "true": True, "half": 0.5, "nan": math.nan, "mixed": [1, "x"]}
    with pytest.raises(ValueError, match=re.escape(message)):
        read(Fields(values, "top"))


def test_long_values_are_cut() -> None:
    assert len(brief("x" * 1000)) == 60
