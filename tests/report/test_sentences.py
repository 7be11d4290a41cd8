"""The sentences of a report follow from what happened."""

from __future__ import annotations

import pytest

from bulkpull.report.division import divide
from bulkpull.report.figures import PullFigures
from bulkpull.report.sentences import duration, fixed_share, load_of, sentences, size
from tests.report.made import Made


def in_rounds(made: Made, at_a_time: int, seconds: float, *, queued: float = 0.0, per_row: float = 0.0) -> float:
    """Exports of all windows, so many at a time, each round as long as its longest, and `queued` for a share of
    their time. Returns when the last is merged."""
    now = 0.0
    for first in range(0, len(made.rows), at_a_time):
        some = range(first, min(first + at_a_time, len(made.rows)))
        for window in some:
            ready = now + seconds + per_row * made.rows[window]
            made.export(window, now, ready, running=now + queued * (ready - now) if queued else None)
            made.merge(window, ready, ready + 0.01)
        now += seconds + per_row * max(made.rows[window] for window in some)
    return now + 0.01


def said_of(figures: PullFigures) -> tuple[str, str, str]:
    return sentences(figures, divide(figures))


def test_each_second_counts_once_and_for_what_was_waited_for() -> None:
    made = Made(2, exports=1)
    made.export(0, 1.0, 11.0, running=4.0, downloading=12.0, downloaded=15.0)
    made.merge(0, 15.0, 16.0)
    made.export(1, 11.5, 31.5, downloading=31.5, downloaded=40.5)  # launched when the first had ended
    made.merge(1, 40.5, 42.5)
    figures = made.figures(45.0)
    spent = divide(figures)
    assert sum(spent.values()) == figures.elapsed == 45.0
    assert {step: seconds for step, seconds in spent.items() if seconds} == {
        "launching": 1.5,
        "queued": 3.0,
        "running": 27.0,
        "downloading": 9.0,
        "merging": 2.0,
        "publishing": 2.5,
    }


def test_what_an_earlier_run_has_done_does_not_count_again() -> None:
    made = Made(2)
    made.export(0, 1.0, 11.0)
    made.merge(0, 11.0, 12.0)
    made.add(12.0, "launched", 1)
    made.add(20.0, "ended", None, 0)
    made.run(1000.0)
    made.add(1000.0, "planned", None, 2, 0)
    made.add(1005.0, "ready", 1, 1)
    made.add(1005.0, "downloaded", 1, 500)
    made.merge(1, 1005.0, 1006.0)
    figures = made.figures(1006.0)
    assert [(run.start, run.end, run.is_published) for run in figures.runs] == [(0.0, 20.0, False), (20.0, 26.0, True)]
    spent = divide(figures)
    assert sum(spent.values()) == 26.0
    assert (spent["running"], spent["merging"]) == (10.0 + 8.0 + 5.0, 1.0)
    assert [seconds for seconds, _ in figures.durations] == [10.0]  # the other was launched by another run
    assert said_of(figures)[0].startswith("The pull took 26 s, in 2 runs: ")


def test_a_limit_that_was_always_reached_is_named() -> None:
    made = Made(40)
    first, second, third = said_of(made.figures(in_rounds(made, 4, 30.0)))
    assert first == "The pull took 5 min: nearly all of it waiting for exports."
    assert second.startswith("The limit of 4 exports at a time, set with --exports, was reached 100% of the time")
    assert third.startswith("A higher --exports, or none")


def test_a_maximum_that_an_adaptive_limit_reached_is_named() -> None:
    made = Made(40, is_adaptive=True)
    made.add(0.0, "limited", None, 4, 8)
    _, second, third = said_of(made.figures(in_rounds(made, 4, 30.0)))
    assert "--max-exports, 4 exports at a time" in second
    assert third == "A higher --max-exports may make it faster."


@pytest.mark.parametrize(
    ("per_row", "seconds", "said"),
    [(0.0, 30.0, "fewer, larger windows"), (0.3, 1.0, "fewer or more windows would change little")],
)
def test_a_busy_server_is_named_and_what_windows_would_change(per_row: float, seconds: float, said: str) -> None:
    made = Made(40, rows=[100 + 10 * number for number in range(40)])
    figures = made.figures(in_rounds(made, 4, seconds, queued=0.9, per_row=per_row))
    _, second, third = said_of(figures)
    assert second.startswith("The server was busy: of ")
    assert third.startswith("More exports at a time would only wait longer.")
    assert said in third


def test_failures_that_took_much_time_are_named_with_their_reason() -> None:
    made = Made(10)
    for window in range(10):
        made.export(window, 0.0, 600.0, failed="it was still running after 600 s")
        made.export(window, 600.0, 640.0)
        made.merge(window, 640.0, 640.1)
    _, second, third = said_of(made.figures(640.1))
    assert second == (
        '10 min of that was lost on exports that failed: 10 of 20 exports, most of the time because of "it was still '
        'running after 600 s".'
    )
    assert third.startswith("A shorter --export-timeout")


def test_one_long_export_is_named() -> None:
    made = Made(9, exports=10)
    for window in range(9):
        ready = 500.0 if window == 4 else 20.0
        made.export(window, 0.0, ready)
        made.merge(window, max(ready, 500.0 if window > 4 else 0.0), max(ready, 500.0 if window > 4 else 0.0))
    _, second, third = said_of(made.figures(500.0))
    assert second.startswith("The longest export ran for 8 min 20 s, 100% of the whole time")
    assert third.startswith("Smaller windows")


def test_a_slow_merge_is_named() -> None:
    made = Made(10, exports=10)
    for window in range(10):
        made.export(window, 0.0, 5.0)
        made.merge(window, 5.0 + 10 * window, 15.0 + 10 * window)
    first, second, third = said_of(made.figures(105.0))
    assert first == "The pull took 1 min 45 s: nearly all of it on the merge and completing the output."
    assert second == "Files were ready faster than their rows could be merged."
    assert third.startswith("Neither more exports nor more downloads")


def test_slow_downloads_are_named() -> None:
    made = Made(2, exports=2)
    for window in range(2):
        made.export(window, 0.0, 5.0, downloading=5.0, downloaded=90.0)
        made.merge(window, 90.0, 91.0)
    made.add(10.0, "traffic", None, 1, 85_000_000)
    _, second, _ = said_of(made.figures(91.0))
    assert second == "Files arrived with about 1.0 MB a second while nothing else was left to wait for."


def test_the_quota_is_named() -> None:
    made = Made(40)
    for second in range(300):
        made.add(float(second), "traffic", None, 30, 0)
    _, second_sentence, _ = said_of(made.figures(in_rounds(made, 4, 30.0)))
    assert second_sentence == "Requests often reached the quota of 1,800 a minute."


def test_an_unfinished_pull_says_how_to_go_on_first() -> None:
    made = Made(20)
    in_rounds(made, 4, 30.0)
    made.add(151.0, "ended", None, 0)
    first, _, third = said_of(made.figures(None))
    assert first.startswith("The pull has taken 2 min 31 s: ")
    assert third.startswith("Run the same command again to resume it.")


def test_a_pull_without_exports_claims_nothing() -> None:
    made = Made(3)
    made.add(2.0, "ended", None, 0)
    first, second, third = said_of(made.figures(None))
    assert first == "The pull has stopped after 2.0 s, before any export was launched."
    assert (second, third) == (
        "So there is nothing to say about what took the time.",
        "Run the same command again to resume it.",
    )


def test_the_load_is_the_mean_until_the_last_launch() -> None:
    made = Made(3, exports=2)
    made.export(0, 0.0, 10.0)
    made.export(1, 0.0, 20.0, running=5.0)
    made.export(2, 10.0, 30.0)
    load = load_of(made.figures(30.0))
    assert (load.in_flight, load.queued, load.at_limit, load.limit) == (2.0, 0.5, 1.0, 2)


def test_the_share_of_a_duration_that_rows_do_not_change() -> None:
    assert fixed_share([(10.0 + rows, rows) for rows in range(20)]) == pytest.approx(10 / 19.5)
    assert fixed_share([(10.0, 100)] * 20) is None  # all have the same rows
    assert fixed_share([(10.0 + rows, rows) for rows in range(5)]) is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.25, "250 ms"), (9.94, "9.9 s"), (59.2, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (100_000, "1 d 3 h")],
)
def test_durations_in_words(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(("number", "said"), [(0, "0 bytes"), (1500, "1.5 kB"), (2.5e12, "2.5 TB")])
def test_sizes_in_words(number: float, said: str) -> None:
    assert size(number) == said
