"""Thousands of pulls from servers that answer by the grammar: each ends within its limits, with every row or saying so.

A seed that fails does so again: `check(followed(seed))`, and `fewest(seed)` tells which of its oddities matter.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.odd_pulls import check, drawn, followed, run
from tests.simulation.oddities import BEARABLE, BEARABLE_AT_FIRST, GRAMMAR, Oddity
from tests.simulation.schedule import AT_ONCE

SEEDS = int(os.environ.get("BULKPULL_ODD_SEEDS", "200"))  # of pulls from any server, and as many from bearable ones


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_no_sequence_of_answers_makes_a_pull_lie_or_last_for_ever(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        check(followed(seed))


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_all_rows_come_from_servers_that_are_odd_in_bearable_ways(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        check(followed(seed, bearable=True))


@pytest.mark.parametrize("seed", range(12))
def test_all_rows_come_from_a_server_without_oddities(seed: int) -> None:
    outcome = followed(seed, ())
    check(outcome)
    assert outcome.result and outcome.result.rows == len(outcome.server.moments)


@pytest.mark.parametrize("answer", [403, 500, "hang", "no page"])
def test_a_list_route_that_never_tells_anything_is_given_up(answer: object) -> None:
    outcome = drawn(4, ())
    outcome.options["window"] = "1mo"  # most of them are empty
    outcome.server.oddities.drawn["count"] = Oddity((answer,), "always", 1.0, 1)
    check(run(outcome))
    assert outcome.result and outcome.result.rows == len(outcome.server.moments)
    assert outcome.seconds < 3600


@pytest.mark.parametrize("seed", [3, 14, 15, 92])
def test_the_same_seed_brings_the_same_answers(seed: int) -> None:
    first, second = followed(seed), followed(seed)
    assert first.server.log == second.server.log
    assert str(first.error) == str(second.error)
    assert first.lines == second.lines


def test_whatever_is_bearable_is_part_of_the_grammar() -> None:
    for table in (BEARABLE, BEARABLE_AT_FIRST):
        for name, values in table.items():
            assert set(values) <= set(GRAMMAR[name])
