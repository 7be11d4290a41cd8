"""Several pulls in one call, on workers that they share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Client

from bulkpull import Clickwrap, Job, pull_many
from bulkpull.cluster.connection import Connection
from bulkpull.errors import ClusterError
from bulkpull.sandbox import Sandbox
from tests.cluster.both import CONFIG, OPTIONS, RETRY


async def test_jobs_share_the_workers_of_this_machine_which_have_none_of_their_tokens(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments: list[Mapping[str, str]] = []

    @asynccontextmanager
    async def connected(_address: str, *, environment: Mapping[str, str], **_more: object) -> AsyncIterator[Connection]:
        environments.append(environment)
        yield Connection(client, None, 1.0)

    monkeypatch.setattr("bulkpull.cluster.shared.connected", connected)
    monkeypatch.setenv("TOKEN_B", "another")
    monkeypatch.setenv("TOKEN_C", "third")
    monkeypatch.setenv("NO_TOKEN", "seen")
    async with Sandbox(CONFIG) as sandbox, Sandbox(replace(CONFIG, token="third")) as same:
        monkeypatch.setenv("TOKEN_A", sandbox.token)
        async with (
            Clickwrap(sandbox.token, base_url=sandbox.url, retry=RETRY) as clickwrap,
            Clickwrap("another", base_url=sandbox.url, retry=RETRY) as refused,
            Clickwrap("third", base_url=same.url, retry=RETRY) as elsewhere,
        ):
            shared = OPTIONS | {"cluster": "local:2", "buckets": 2}
            jobs = [
                Job("first", clickwrap, **shared, out=tmp_path / "first"),
                Job("second", clickwrap, **shared, out=tmp_path / "second", filter="event_type==agreed"),
                Job("refused", refused, **shared | {"cluster": "local:1"}, out=tmp_path / "third"),
                Job("here", elsewhere, **OPTIONS, out=tmp_path / "here.csv"),
            ]
            results = await pull_many(jobs)
    states = {name: one.state for name, one in results.items()}
    assert states == {"first": "complete", "second": "complete", "refused": "failed", "here": "complete"}
    assert results["first"].rows == results["here"].rows
    assert len(environments) == 2  # of local:2, and of local:1, which a single job has
    for environment in environments:
        assert "NO_TOKEN" in environment
        assert not {"TOKEN_A", "TOKEN_B", "TOKEN_C"} & environment.keys()


async def test_workers_that_do_not_start_are_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses: list[str] = []

    @asynccontextmanager
    async def connected(address: str, **_more: object) -> AsyncIterator[Connection]:
        addresses.append(address)
        raise ClusterError("worker processes do not start")
        yield

    monkeypatch.setattr("bulkpull.cluster.shared.connected", connected)
    monkeypatch.setattr("bulkpull.cluster.connection.connected", connected)
    async with Sandbox(CONFIG) as sandbox, Clickwrap(sandbox.token, base_url=sandbox.url, retry=RETRY) as clickwrap:
        shared = OPTIONS | {"cluster": "local:9", "buckets": 2}
        jobs = [Job(name, clickwrap, **shared, out=tmp_path / name) for name in ("first", "second")]
        results = await pull_many([*jobs, Job("here", clickwrap, **OPTIONS, out=tmp_path / "here.csv")])
    assert [one.state for one in results.values()] == ["failed", "failed", "complete"]
    assert "do not start" in str(results["second"].error)
    assert addresses == ["local:9"]
