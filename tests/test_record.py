"""Records behave as data classes do, except that nothing is compiled for them but `__init__`."""

from __future__ import annotations

import dataclasses
import math
import pickle
from dataclasses import InitVar, field
from typing import Any, ClassVar

import pytest

from bulkpull.record import record


@record
class Point:
    x: int
    y: int = 0
    secret: str = field(default="s", repr=False)
    note: list[str] = field(default_factory=list, compare=False)


@record
class Empty:
    pass


@record
class Named(Point):
    name: str = ""


@record(frozen=False)
class Count:
    value: int = 0


@record
class Own:
    value: int

    def __repr__(self) -> str:
        return "own"

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 7


@record
class Number:
    value: float


@record
class Scaled:
    factor: InitVar[int]
    value: int
    unit: ClassVar[list[str]] = ["m"]
    children: list[Any] = field(default_factory=list)

    def __post_init__(self, factor: int) -> None:
        self.children.append(self.value * factor)


@record
class OwnEquality:
    value: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnEquality)


def test_have_only_their_fields_compared_and_shown() -> None:
    scaled = Scaled(3, 2)
    assert repr(scaled) == "Scaled(value=2, children=[6])"
    assert scaled == Scaled(3, 2) != Scaled(4, 2)
    scaled.children.append(scaled)
    assert repr(scaled) == "Scaled(value=2, children=[6, ...])"
    missing = OwnEquality(math.nan)
    assert hash(missing) == hash(missing)
    assert Number(math.nan) != Number(1.0)
    number = Number(math.nan)
    assert number == Number(number.value)  # as with tuples: the same object


def test_are_compared_and_hashed_by_the_compared_fields() -> None:
    assert Point(1, 2, note=["a"]) == Point(1, 2, note=["b"])
    assert Point(1, 2) != Point(1, 3)
    assert hash(Point(1, 2, note=["a"])) == hash(Point(1, 2, note=["b"]))
    assert len({Point(1), Point(1), Point(2)}) == 2
    assert Empty() == Empty()
    assert hash(Empty()) == hash(Empty())
    assert Named(1, name="a") != Named(1, name="b")
    assert Named(1) != Point(1)
    other: Any = (1, 0, "s")
    assert Point(1) != other


def test_are_shown_without_what_is_secret() -> None:
    assert repr(Named(1, 2, "token", name="n")) == "Named(x=1, y=2, note=[], name='n')"
    assert repr(Empty()) == "Empty()"


def test_work_with_the_functions_for_data_classes() -> None:
    point: Any = Named(1, 2, name="n")
    assert dataclasses.replace(point, y=5) == Named(1, 5, name="n")
    assert dataclasses.asdict(Point(1)) == {"x": 1, "y": 0, "secret": "s", "note": []}
    assert pickle.loads(pickle.dumps(point)) == point  # noqa: S301 - its own bytes
    assert not hasattr(point, "__dict__")


def test_cannot_be_hashed_unless_frozen() -> None:
    count = Count(1)
    count.value += 1
    assert count == Count(2)
    with pytest.raises(TypeError, match="unhashable"):
        hash(count)


def test_keep_the_methods_of_their_own() -> None:
    assert (repr(Own(1)), Own(1) == Own(2), hash(Own(3))) == ("own", True, 7)
