"""Which outputs are in object storage, and which URLs are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkpull import PullOptions, UsageError
from bulkpull.store import ObjectUrl, WorkDirectory


@pytest.mark.parametrize(
    ("output", "bucket", "key"),
    [
        ("s3://bucket/a.csv", "s3://bucket", "a.csv"),
        ("gs://bucket/a/b c.csv.zst", "gs://bucket", "a/b c.csv.zst"),
        ("az://container/a/", "az://container", "a"),
        ("abfss://files@account.dfs.core.windows.net/a/b", "abfss://files@account.dfs.core.windows.net", "a/b"),
    ],
)
def test_splits_a_url_into_bucket_and_key(output: str, bucket: str, key: str) -> None:
    assert ObjectUrl.of(output) == ObjectUrl(bucket, key)


@pytest.mark.parametrize("output", ["a.csv", "/a/b.csv", "s3:a.csv", Path("/a/b.csv"), "a b://c"])
def test_other_outputs_are_local(output: str | Path) -> None:
    assert ObjectUrl.of(output) is None


@pytest.mark.parametrize(
    "output",
    [
        "s3://id:hush@bucket/a.csv",
        "s3://hush@bucket/a.csv",
        "abfss://files:hush@account.dfs.core.windows.net/a",
        "s3://bucket/a.csv?X-Amz-Signature=hush",
        "s3://bucket/a.csv#hush",
    ],
)
def test_refuses_a_url_with_credentials_or_a_query_and_does_not_repeat_it(output: str) -> None:
    with pytest.raises(UsageError) as refused:
        ObjectUrl.of(output)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "output",
    [
        *("file:///a.csv", "https://host/a.csv", "ftp://host/a.csv"),
        *("s3://bucket", "s3://bucket/", "s3:///a.csv", "s3://bucket/a//b", "s3://bucket/../a", "s3://bucket/a\n"),
        Path("s3://bucket/a.csv"),
    ],
)
def test_refuses_what_names_no_object(output: str | Path) -> None:
    with pytest.raises(UsageError):
        ObjectUrl.of(output)


def test_progress_of_a_remote_output_is_kept_in_the_current_or_the_given_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").mkdir()
    assert WorkDirectory.of("s3://bucket/x/a.csv").path == tmp_path / "a.csv.bulkpull"
    assert WorkDirectory.of("s3://bucket/x/a.csv", "state").path == tmp_path / "state" / "a.csv.bulkpull"
    assert WorkDirectory.of("s3://bucket/x/a.csv").output == "s3://bucket/x/a.csv"


def test_a_directory_for_the_progress_of_a_local_output_is_refused() -> None:
    with pytest.raises(UsageError, match="--state is for outputs in object storage"):
        PullOptions(start="2024-01-01", out="a.csv", state="x")


def test_a_path_made_of_a_url_is_refused_by_the_options() -> None:
    with pytest.raises(UsageError, match="pass a URL as a string"):
        PullOptions(start="2024-01-01", out=Path("s3://bucket/a.csv"))
