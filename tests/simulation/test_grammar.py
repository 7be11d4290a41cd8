"""Thousands of pulls from odd servers: each ends within its limits, complete or with an honest result.

A seed that fails does so again: `check(followed(seed))`, and `fewest(seed)` tells which of its oddities matter.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.odd_pulls import check, drawn, followed, run
from tests.simulation.oddities import GRAMMAR, TOLERABLE, TOLERABLE_AT_FIRST, Oddity
from tests.simulation.schedule import AT_ONCE

SEEDS = int(os.environ.get("BULKPULL_ODD_SEEDS", "7"))  # number of pulls from any server, and from tolerable ones


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_no_sequence_of_responses_makes_a_pull_lie_or_run_forever(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        check(followed(seed))


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_pulls_all_rows_from_servers_with_tolerable_oddities(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        check(followed(seed, tolerable=True))


@pytest.mark.parametrize("seed", range(12))
def test_pulls_all_rows_from_a_server_without_oddities(seed: int) -> None:
    outcome = followed(seed, ())
    check(outcome)
    assert outcome.result and outcome.result.rows == len(outcome.server.moments)


@pytest.mark.parametrize("answer", [403, 500, "hang", "no page"])
def test_gives_up_on_a_list_route_without_usable_responses(answer: object) -> None:
    outcome = drawn(4, ())
    outcome.options["window"] = "1mo"  # most windows are empty
    outcome.server.oddities.drawn["count"] = Oddity((answer,), "always", 1.0, 1)
    check(run(outcome))
    assert outcome.result and outcome.result.rows == len(outcome.server.moments)
    assert outcome.seconds < 3600


@pytest.mark.parametrize("seed", [3, 14, 15, 92])
def test_the_same_seed_gives_the_same_responses(seed: int) -> None:
    first, second = followed(seed), followed(seed)
    assert first.server.log == second.server.log
    assert str(first.error) == str(second.error)
    assert first.lines == second.lines


def test_tolerable_oddities_are_part_of_the_grammar() -> None:
    for table in (TOLERABLE, TOLERABLE_AT_FIRST):
        for name, values in table.items():
            assert set(values) <= set(GRAMMAR[name])
