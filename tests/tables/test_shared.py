"""What holds for tables in databases, and for files and data sets too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.conftest import EXAMPLES
from tests.tables.places import FilePlace
from tests.tables.test_histories import confirm_history, histories
from tests.tables.test_tables import (  # those that hold for files as well
    name,  # noqa: F401
    table,  # noqa: F401
    test_a_check_creates_no_table,  # noqa: F401
    test_a_new_table_has_no_state_no_columns_and_no_rows,  # noqa: F401
    test_a_rebuild_replaces_rows_and_state_at_once_and_may_add_columns,  # noqa: F401
    test_a_rebuild_that_fails_changes_nothing,  # noqa: F401
    test_a_row_outside_the_windows_is_refused,  # noqa: F401
    test_a_time_that_is_no_instant_is_told_with_its_id,  # noqa: F401
    test_another_state_than_the_expected_one_changes_nothing,  # noqa: F401
    test_invalid_utf_8_is_told_with_its_id,  # noqa: F401
    test_nasty_values_are_stored_as_they_are,  # noqa: F401
    test_quotes_in_unquoted_cells_are_literal,  # noqa: F401
    test_rows_that_are_equal_are_not_rewritten,  # noqa: F401
    test_the_guard_tells_how_many_rows_would_go,  # noqa: F401
    test_two_syncs_do_not_write_at_once,  # noqa: F401
    test_u_0000_is_stored_where_it_can_be,  # noqa: F401
    test_without_create_nothing_is_made,  # noqa: F401
)


@pytest.fixture(scope="module")
def place(file_place: FilePlace) -> FilePlace:
    """Where the tables of all tests of this module are."""
    return file_place


@settings(max_examples=max(EXAMPLES // 12, 1), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories)
def test_a_table_holds_what_was_delivered(place: FilePlace, tmp_path: Path, history: list[Any]) -> None:
    confirm_history(place, tmp_path, history)
