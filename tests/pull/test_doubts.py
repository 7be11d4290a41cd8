"""What is believed of a window, and what is not: by numbers alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bulkpull import Window
from bulkpull.pull.doubts import Delivery, Doubt, Doubts, Evidence, Trial

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def window(index: int, rows: int | None = None) -> Window:
    return Window(index, START + index * DAY, START + (index + 1) * DAY, rows)


def judged(
    doubts: Doubts,
    judged: Window,
    records: int,
    ids: int | None = None,
    *,
    rows: int | None = None,
    trial: Trial | None = None,
    is_empty: bool = False,
    is_resolved: bool = False,
    is_uncountable: bool = True,
) -> Doubt | None:
    ids = records if ids is None else ids
    rows = ids if rows is None else rows
    return doubts.judge(
        judged,
        Delivery(records, ids, rows),
        Evidence(is_empty=is_empty, is_resolved=is_resolved, is_uncountable=is_uncountable, trial=trial),
    )


@pytest.mark.parametrize("counted", [7, 6, None])
def test_what_is_counted_or_more_is_believed(counted: int | None) -> None:
    assert judged(Doubts(), window(0, counted), 7) is None


def test_fewer_than_counted_are_doubted_until_all_was_asked() -> None:
    doubts = Doubts()
    doubt = judged(doubts, window(0, 8), 7)
    assert doubt is not None
    assert (doubt.kind, doubt.delivery.records, doubt.delivery.ids) == ("short", 7, 7)
    assert judged(doubts, window(0, 8), 7, is_resolved=True) is None


def test_ids_that_come_again_in_another_window_are_no_more_than_counted() -> None:
    doubts = Doubts()
    assert all(judged(doubts, window(index, 500), 501, rows=500) is None for index in range(4))
    assert doubts.new_verdicts() == {}


def test_repeats_do_not_make_up_for_ids_that_lack() -> None:
    doubt = judged(Doubts(), window(0, 8), 9, 7)
    assert doubt is not None
    assert doubt.kind == "short"


@pytest.mark.parametrize("counted", [0, 5, None])
def test_nothing_is_believed_only_where_the_api_agrees(counted: int | None) -> None:
    doubt = judged(Doubts(), window(0, counted), 0)
    assert doubt is not None
    assert doubt.kind == "empty"
    assert judged(Doubts(), window(0, 0), 0, is_empty=True) is None


def test_three_exports_of_any_high_number_make_a_trial() -> None:
    doubts = Doubts()
    assert judged(doubts, window(0), 317) is None
    assert judged(doubts, window(1), 300) is None
    assert judged(doubts, window(2), 317) is None
    counted = judged(doubts, window(3), 317, is_uncountable=False)
    assert counted
    assert counted.is_to_be_counted
    doubt = judged(doubts, window(3), 317)
    assert doubt
    assert doubt.kind == "capped"
    assert doubt.trial
    assert [window.index for window in doubts.confirm_cap(317)] == [0, 2]


def test_exports_of_equal_numbers_prove_nothing_if_they_are_low_or_others_were_higher() -> None:
    doubts = Doubts()
    assert all(judged(doubts, window(index), 99) is None for index in range(9))
    assert judged(doubts, window(9), 318) is None
    assert all(judged(doubts, window(index), 317) is None for index in range(10, 19))


def test_two_exports_of_a_round_number_make_a_trial() -> None:
    for records in (500, 1500, 10_000, 1_048_575):
        doubts = Doubts()
        assert judged(doubts, window(0), records) is None
        doubt = judged(doubts, window(1), records)
        assert doubt is not None
        assert (doubt.kind, doubt.is_own, doubt.again) == ("capped", True, ())
        assert doubt.trial is not None
        assert doubts.new_verdicts() == {records: "open"}
        assert doubts.new_verdicts() == {}


def test_numbers_that_others_exceed_or_that_are_small_or_counted_are_no_limits() -> None:
    doubts = Doubts()
    assert judged(doubts, window(0), 501) is None
    assert all(judged(doubts, window(index), 500) is None for index in range(1, 6))
    doubts = Doubts()
    assert all(judged(doubts, window(index), 4) is None for index in range(6))
    assert all(judged(doubts, window(index), 99) is None for index in range(6))
    assert all(judged(doubts, window(index, 1000), 1000) is None for index in range(6))


def test_a_count_that_may_be_capped_itself_proves_nothing_once_counts_are_doubtful() -> None:
    doubts = Doubts(are_counts_doubtful=True)
    assert all(judged(doubts, window(index, 1003), 1003) is None for index in range(6))
    assert judged(doubts, window(6, 10_000), 10_000) is None
    doubt = judged(doubts, window(7, 10_000), 10_000)
    assert doubt is not None
    assert doubt.kind == "capped"


def on_trial() -> tuple[Doubts, Trial]:
    """Two windows delivered 500; the second is cut in two."""
    doubts = Doubts()
    judged(doubts, window(0), 500)
    doubt = judged(doubts, window(1), 500)
    assert doubt is not None
    assert doubt.trial is not None
    doubt.trial.pieces = 2
    return doubts, doubt.trial


def test_pieces_that_deliver_more_find_the_limit_and_all_that_ended_there_are_cut() -> None:
    doubts, trial = on_trial()
    assert judged(doubts, window(2), 400, trial=trial) is None
    doubt = judged(doubts, window(3), 300, trial=trial)
    assert doubt is not None
    assert (doubt.kind, doubt.again, doubt.is_own, doubt.trial) == ("capped", (window(0),), False, None)
    assert doubts.caps == {500: "confirmed"}
    later = judged(doubts, window(4), 500)
    assert later is not None
    assert (later.kind, later.is_own, later.trial) == ("capped", True, None)


def test_a_piece_that_ends_there_as_well_is_cut_again() -> None:
    doubts, trial = on_trial()
    assert judged(doubts, window(2), 500, trial=trial) is None
    doubt = judged(doubts, window(3), 500, trial=trial)
    assert doubt is not None
    assert (doubt.again, doubt.is_own) == ((window(0), window(2)), True)


def test_pieces_that_deliver_the_same_in_all_refute_the_limit() -> None:
    doubts, trial = on_trial()
    assert judged(doubts, window(2), 200, trial=trial) is None
    assert judged(doubts, window(3), 300, trial=trial) is None
    assert doubts.caps == {500: "refuted"}
    assert judged(doubts, window(4), 500) is None


def test_a_trial_that_shows_nothing_goes_deeper_and_not_for_ever() -> None:
    doubts, trial = on_trial()
    for depth in range(1, 5):
        assert trial.depth == depth
        assert judged(doubts, window(2 * depth), 500, trial=trial) is None
        doubt = judged(doubts, window(2 * depth + 1), 0, trial=trial, is_empty=True)
        assert doubt is not None
        assert (doubt.again, doubt.is_own) == ((window(2 * depth),), False)
        assert doubt.trial is not None
        trial = doubt.trial
        trial.pieces = 2
    assert judged(doubts, window(20), 500, trial=trial) is None
    assert judged(doubts, window(21), 0, trial=trial, is_empty=True) is None
    assert doubts.caps == {500: "open"}


def test_the_first_export_that_ends_at_a_limit_is_only_counted() -> None:
    doubts = Doubts()
    doubt = judged(doubts, window(0), 10_000, is_uncountable=False)
    assert doubt is not None
    assert (doubt.kind, doubt.is_to_be_counted, doubt.trial) == ("capped", True, None)
    assert judged(doubts, window(0, 10_000), 10_000, is_uncountable=False) is None
    assert judged(doubts, window(1), 10_001, is_uncountable=False) is None


def test_one_export_that_ends_at_a_limit_above_its_count_makes_a_trial() -> None:
    doubt = judged(Doubts(), window(0, 0), 1000)
    assert doubt is not None
    assert (doubt.kind, doubt.is_own) == ("capped", True)
    assert doubt.trial is not None
    assert judged(Doubts(), window(0, 0), 1001) is None


def test_a_count_settles_it_as_well() -> None:
    doubts, _ = on_trial()
    doubts.refute_cap(500)
    assert judged(doubts, window(2), 500) is None
    doubts, _ = on_trial()
    assert doubts.confirm_cap(500) == (window(0),)
    later = judged(doubts, window(2), 500)
    assert later is not None
    assert (later.kind, later.again, later.trial) == ("capped", (), None)


def test_a_trial_whose_piece_could_not_be_exported_stays_open() -> None:
    doubts, trial = on_trial()
    trial.is_spoiled, trial.pieces = True, 1
    assert judged(doubts, window(2), 200, trial=trial) is None
    assert doubts.caps == {500: "open"}


def test_windows_of_earlier_runs_are_remembered() -> None:
    doubts = Doubts()
    doubts.resume(window(0), Delivery(500, 500, 500))
    doubts.resume(window(1, 700), Delivery(700, 700, 700))
    assert judged(doubts, window(2), 500) is None  # one has delivered more
    doubts = Doubts()
    doubts.resume(window(0), Delivery(500, 500, 500))
    doubt = judged(doubts, window(2), 500)
    assert doubt is not None
    assert doubt.kind == "capped"
