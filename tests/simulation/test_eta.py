"""The time that is left, as it is shown, compared with what a pull then takes. `benchmarks/eta.py` has more servers."""

from __future__ import annotations

from tests.simulation.estimates import figures, judge
from tests.simulation.schedule import SEEDS
from tests.simulation.server import END, START, Model, Server, evenly

ROWS = 5  # for each export
SERVERS = [  # and the number of exports
    (Model(workers=8), 80),
    (Model(workers=2, sigma=0.6), 60),
    (Model(workers=4, seconds=120.0, tells=False), 60),
    (Model(workers=8, seconds=600.0), 24),
]


def test_the_time_that_is_left_lies_in_the_range_shown() -> None:
    judged = []
    for model, exports in SERVERS:
        moments = evenly(exports * ROWS, START, END)
        found = [judge(Server(model, moments, seed), ROWS, 12) for seed in range(1, 2 + SEEDS // 50)]
        shown, _, error, _ = figures(found)
        assert shown >= 0.6, model
        assert error <= 0.25, model
        judged += found
    _, inside, error, _ = figures(judged)
    assert inside >= 0.8
    assert error <= 0.15
