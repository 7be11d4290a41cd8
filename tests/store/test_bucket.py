"""What is said of a storage that is not configured. No request leaves the machine."""

from __future__ import annotations

import os

import pytest

from bulkpull import OutputError, UsageError
from bulkpull.store import ObjectUrl
from bulkpull.store.bucket import Bucket


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def bucket(url: str) -> Bucket:
    found = ObjectUrl.of(url)
    assert found
    return Bucket(found)


def test_an_account_that_is_not_set_is_told() -> None:
    with pytest.raises(OutputError, match="account, region or credentials are not set") as told:
        bucket("az://container/a.csv").confirm_writable("a.csv")
    assert told.value.__cause__ is None
    assert "az://container" in str(told.value)


def test_a_key_that_is_not_valid_is_told_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "!HUSH!")
    with pytest.raises(OutputError, match="are not set, or not valid") as told:
        bucket("az://container/a.csv").confirm_writable("a.csv")
    assert "HUSH" not in str(told.value)


def test_a_service_account_without_a_file_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", "/nowhere/key.json")
    with pytest.raises(OutputError, match="are not set, or not valid"):
        bucket("gs://bucket/a.csv").confirm_writable("a.csv")


def test_an_endpoint_that_is_no_url_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL is not a URL"):
        bucket("s3://bucket/a.csv").confirm_writable("a.csv")


def test_a_profile_without_credentials_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match="AWS_PROFILE or the shared credentials file"):
        bucket("s3://bucket/a.csv").confirm_writable("a.csv")
