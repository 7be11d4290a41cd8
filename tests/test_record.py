"""Records behave as data classes do, except that nothing is compiled for them but `__init__`."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import field
from typing import Any

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
